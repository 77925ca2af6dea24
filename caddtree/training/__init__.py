"""Makes a target and its drafter: data, tokenizer, target training, responses, drafter training."""
