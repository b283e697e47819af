"""onnxruntime-genai on one folder, asked as worker/examples/engine.rs is.

scripts/bench engine runs it in a virtual environment of its own: `peer.py FOLDER` reads
`decode SEQUENCES STEPS` and `prefill TOKENS` from its input, and answers each with a line of JSON.
"""

import json
import sys
import time

import numpy
import onnxruntime_genai as genai

PROMPT_TOKENS = 32  # what stands before the tokens that are measured, as on the other side


def main():
    model = genai.Model(sys.argv[1])
    for number, line in enumerate(sys.stdin):
        match line.split():
            case ["decode", sequences, steps]:
                answer = decode(model, int(sequences), int(steps), number)
            case ["prefill", tokens]:
                answer = prefill(model, int(tokens), number)
            case _:
                sys.exit(f"what is {line!r}?")
        print(json.dumps(answer), flush=True)


def decode(model, sequences, steps, number):
    """As many steps of one static batch: genai has no other on the CPU."""
    generator = begin(model, sequences, PROMPT_TOKENS + steps + 1)
    generator.append_tokens(prompt(sequences, PROMPT_TOKENS, number))
    generator.generate_next_token()
    began = time.perf_counter()
    for _ in range(steps):
        generator.generate_next_token()
    return {"tokens": sequences * steps, "seconds": time.perf_counter() - began}


def prefill(model, tokens, number):
    """A prompt until its first token."""
    generator = begin(model, 1, tokens + 1)
    ids = prompt(1, tokens, number)
    began = time.perf_counter()
    generator.append_tokens(ids)
    generator.generate_next_token()
    return {"tokens": tokens, "seconds": time.perf_counter() - began}


def begin(model, sequences, length):
    parameters = genai.GeneratorParams(model)
    # The lengths are equal, so that no sequence ends before it was measured.
    parameters.set_search_options(
        batch_size=sequences, max_length=length, min_length=length, do_sample=False
    )
    return genai.Generator(model, parameters)


def prompt(sequences, tokens, number):
    row = 100 + number % 4096 + numpy.arange(tokens) * 7 % 1024
    return numpy.tile(row.astype(numpy.int32), (sequences, 1))


if __name__ == "__main__":
    main()
