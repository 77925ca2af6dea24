"""Fair comparisons: prompts from files, variants interleaved, intervals beside the figures."""
