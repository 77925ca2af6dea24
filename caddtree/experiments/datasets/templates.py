"""What a row of a data set is asked as: columns to the text of a user's turn.

The requests are those usual in evaluations of speculative decoding; only the one for mathematics has a fixed wording.
Where a row is a whole question already it is asked as it stands.
"""

from __future__ import annotations


def as_written(text: str) -> str:
    """Return the text unchanged."""
    return text


def math_problem(problem: str) -> str:
    """Return a problem and the request for steps and a boxed answer."""
    return f"{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."


def python_function(start: str) -> str:
    """Return the request to write out a function of which signature and docstring are given."""
    return (
        "Write a solution in Python: the whole function that begins as follows and does what its docstring says.\n"
        f"```python\n{start}\n```"
    )


def python_program(question: str, starter_code: str) -> str:
    """Return a contest problem with the code to begin from or, without any, the request for a whole program."""
    if starter_code:
        rule = f"Begin with this code and leave its names as they are:\n```python\n{starter_code}\n```"
    else:
        rule = "Read from standard input and write to standard output."
    return (
        "Write a solution in Python to the following problem. Answer with the code alone, in one code block.\n\n"
        f"{question}\n\n{rule}"
    )


def instruction(task: str, task_input: str) -> str:
    """Return an instruction and, where there is one, the input that it speaks of."""
    return f"{task}\n\nInput:\n{task_input}" if task_input else task
