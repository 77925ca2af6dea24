"""What a row is asked as."""

from __future__ import annotations

from caddtree.experiments.datasets import templates


def test_braces_and_backslashes_of_a_row_stay_as_they_are():
    """Rows hold TeX and code; no template formats them."""
    text = r"Let $\frac{a}{b} = {x}$ and print(f'{y}'), 100% of %s."

    for template in (templates.as_written, templates.math_problem, templates.python_function):
        assert text in template(text)
    assert text in templates.python_program(text, "")
    assert text in templates.python_program("", text)
    assert templates.instruction(text, text).count(text) == 2


def test_mathematics_ends_with_the_request_for_a_boxed_answer():
    """In the wording that models were tuned on."""
    assert templates.math_problem("p").endswith("reason step by step, and put your final answer within \\boxed{}.")


def test_code_asks_for_python():
    """With a program's frame: the code to begin with, or standard input and output."""
    assert "in Python" in templates.python_function("def f():")
    assert "standard input" in templates.python_program("q", "")
    assert "standard input" not in templates.python_program("q", "class A:")
    assert "```python\nclass A:\n```" in templates.python_program("q", "class A:")


def test_an_instruction_without_input_stands_alone():
    """And one with an input is joined to it."""
    assert templates.instruction("do", "") == "do"
    assert templates.instruction("do", "this") == "do\n\nInput:\nthis"
