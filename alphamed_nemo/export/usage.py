"""How a released model is asked, as code for its card: the prompt of its training, in transformers and in vLLM."""

from __future__ import annotations

from collections.abc import Mapping

from alphamed_nemo.data.question import Question

# Common knowledge rather than a question of a data set: some ask that their questions are not shown in public.
EXAMPLE = Question(
    "example",
    "example",
    "A sailor who has eaten no fresh food for months has bleeding gums and old wounds that open again. "
    "Which vitamin does he lack?",
    ("Vitamin A", "Vitamin B12", "Vitamin C", "Vitamin K"),
    "C",
)

TEMPLATE = Question("template", "template", "{question}", ("{first option}", "{second option, and so on}"), "A")

_TRANSFORMERS = '''\
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")

prompt = r"""{prompt}"""
{encode}
output = model.generate(**inputs, do_sample=False, max_new_tokens={max_new_tokens})
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
'''
_CHAT = """\
turn = [{"role": "user", "content": prompt}]
inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True, return_tensors="pt"%s)"""
_RAW = 'inputs = tokenizer(prompt, return_tensors="pt")  # the text as it is, no chat template'
_VLLM = '''\
from vllm import LLM, SamplingParams

llm = LLM(".")  # this folder, or its name on the hub
params = SamplingParams(temperature=0, max_tokens={max_new_tokens})
prompt = r"""{prompt}"""
outputs = {ask}
print(outputs[0].outputs[0].text)
'''


def transformers_code(prompt: str, chat: bool, max_new_tokens: int, values: Mapping[str, str | bool]) -> str:
    """A program that asks one question greedily.

    Args:
        prompt: the text of the user's turn.
        chat: whether the model was trained with its chat template around it.
        max_new_tokens: the longest response.
        values: what the chat template was given in training besides the turn, such as its date.
    """
    given = "".join(f", {name}={_literal(value)}" for name, value in values.items())
    encode = _CHAT % given if chat else _RAW
    return _TRANSFORMERS.format(prompt=prompt, encode=encode, max_new_tokens=max_new_tokens)


def vllm_code(prompt: str, chat: bool, max_new_tokens: int, values: Mapping[str, str | bool]) -> str:
    """The same in vLLM; arguments as above."""
    items = ", ".join(f'"{name}": {_literal(value)}' for name, value in values.items())
    given = f", chat_template_kwargs={{{items}}}" if values else ""
    ask = f'llm.chat([{{"role": "user", "content": prompt}}], params{given})'
    ask = ask if chat else "llm.generate([prompt], params)"
    return _VLLM.format(prompt=prompt, ask=ask, max_new_tokens=max_new_tokens)


def _literal(value: str | bool) -> str:
    return str(value) if isinstance(value, bool) else f'"{value}"'
