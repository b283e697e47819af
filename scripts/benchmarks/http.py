"""scripts/bench http: what a client gets, through HTTP, beside other clients.

The figures of a round are compared with each other: a busy machine is busy for all of them. The
client takes its part of the same cores.
"""

import contextlib
import json
import random
import re
import statistics
import time
from pathlib import Path

from fetch import hearth_home

from .command import DEFAULT_MODEL, PROJECT, Failure, add_command, find_model, positive, say
from .engine import peer_on
from .figures import machine_line, summary
from .gateway import Gateway, gateway_with
from .streams import Stream, together, until_told

EMBEDDING_MODEL = "models/all-minilm-l6-v2"
STREAMS = (1, 8)
STREAM_TOKENS = 96
LONG_PROMPT_TOKENS = 1000
# Who runs while a long prompt joins.
RUNNING = 4
TEXTS = (1, 8, 64)
# Each is one token after a space, in the default model's vocabulary.
WORDS = (
    "river stone market letter window garden music paper winter summer bread table water story "
    "house light road tree school morning evening city village bridge hand voice picture money"
).split()


def add_http(commands):
    command = add_command(
        commands, "http", measure_http, print_http,
        help="streams, conversations and embeddings through HTTP",
        description="Asks a gateway as clients do: one of its own, or with --address one that runs. "
        "The latter should have nothing else to do.",
        epilog="""\
what is printed: the median of the rounds and the least and most of
  streams            tokens per second of all, from when all of them run until the first ends
  first turn         seconds to the first token of a conversation of about 1,000 tokens
  second turn        the same for the turn after its answer, and as a part of the first
  alone, joined      milliseconds between a stream's tokens, four of them running: p50 alone, and
                     p99 while a prompt of about 1,000 tokens joins; and how many times the first
  embeddings         texts per second, so many in a request
  peer               tokens per second of one sequence in onnxruntime-genai, in its own process and
                     without HTTP, and how many times that the streams are
The first round warms up and is not counted. Examples:
  scripts/bench http
  scripts/bench http --model FOLDER --peer FOLDER
  scripts/bench http --rounds 9 --json http.json
  scripts/bench http --address http://127.0.0.1:11434""",
    )
    command.add_argument(
        "--embedding-model", type=Path, metavar="PATH",
        help=f"default: {EMBEDDING_MODEL} in HEARTH_HOME",
    )
    command.add_argument(
        "--address", metavar="URL",
        help="a gateway that runs and has both models under the names that their paths end in",
    )
    command.add_argument(
        "--peer", type=Path, metavar="PATH",
        help="a folder that onnxruntime-genai runs in each round, to compare the streams with",
    )
    command.add_argument("--rounds", type=positive, default=5, metavar="N", help="default: 5")


def measure_http(arguments):
    paths = [arguments.model or hearth_home() / DEFAULT_MODEL]
    paths.append(arguments.embedding_model or hearth_home() / EMBEDDING_MODEL)
    names = [path.name.removesuffix(".gguf") for path in paths]
    rounds = []
    with contextlib.ExitStack() as stack:
        if arguments.address:
            gateway = Gateway(arguments.address.rstrip("/"))
        else:
            gateway = stack.enter_context(gateway_with(dict(zip(names, map(find_model, paths)))))
        peer = stack.enter_context(peer_on(arguments.peer)) if arguments.peer else None
        for number in range(arguments.rounds + 1):
            found = one_round(gateway, *names, number)
            if peer:
                found |= beside_peer(found, peer)
            if number:
                rounds.append(found)
            say(f"round {number} of {arguments.rounds}")
    return {
        "model": names[0], "embedding_model": names[1], "rounds": rounds,
        "summary": {key: summary([each[key] for each in rounds]) for key in rounds[0]},
    }


def one_round(gateway, model, embedding_model, number):
    words = random.Random(number)
    return {
        **{f"streams_{count}_tokens_per_second": stream_rate(gateway, model, count, words) for count in STREAMS},
        **turns(gateway, model, words),
        **joined(gateway, model, words),
        **{
            f"embeddings_{count}_texts_per_second": embedding_rate(gateway, embedding_model, count, number)
            for count in TEXTS
        },
    }


# --- Each gives figures of one round


def stream_rate(gateway, model, count, words):
    """Tokens of all streams in the time that all of them run."""
    streams = [Stream(gateway, completion(model, words, 16, STREAM_TOKENS)) for _ in range(count)]
    with together(streams):
        pass
    begin = max(stream.told[0] for stream in streams)
    end = min(stream.told[-1] for stream in streams)
    if begin >= end:
        raise Failure("the streams did not run together: run this again, alone")
    told = sum(begin < moment <= end for stream in streams for moment in stream.told)
    # A token that is no whole character yet is told with the next.
    tokens = sum(stream.tokens for stream in streams) / sum(len(stream.told) for stream in streams)
    return told * tokens / (end - begin)


def beside_peer(found, peer):
    """What onnxruntime-genai makes of one sequence, and how many times that the streams are."""
    answer = peer.ask("decode 1")
    rate = answer["tokens"] / answer["seconds"]
    times = {f"streams_{n}_of_peer": found[f"streams_{n}_tokens_per_second"] / rate for n in STREAMS}
    return {"peer_tokens_per_second": rate, **times}


def turns(gateway, model, words):
    """Seconds to the first token of a conversation's first turn and of its second."""
    text = text_of(words, LONG_PROMPT_TOKENS) + "\n\nTell a story in which these words occur."
    messages = [{"role": "user", "content": text}]
    first = Stream(gateway, chat(model, messages))
    first.read()
    messages += [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "Tell me more about that."},
    ]
    second = Stream(gateway, chat(model, messages))
    second.read()
    times = [stream.told[0] - stream.asked for stream in (first, second)]
    return {
        "conversation_tokens": first.prompt_tokens,
        "first_turn_seconds": times[0],
        "second_turn_seconds": times[1],
        "second_turn_of_first": times[1] / times[0],
    }


def joined(gateway, model, words):
    """How evenly streams run, alone and while a long prompt is read beside them."""
    streams = [Stream(gateway, completion(model, words, 16, 1500)) for _ in range(RUNNING)]
    with together(streams):
        until_told(streams, 10)  # all run, and their prompts are read
        began = time.perf_counter()
        until_told(streams, max(len(stream.told) for stream in streams) + 60)
        alone = gaps(streams, began, time.perf_counter())
        joiner = Stream(gateway, completion(model, words, LONG_PROMPT_TOKENS, 1))
        joiner.read()
        beside = gaps(streams, joiner.asked, joiner.told[0])
        if not all(stream.runs for stream in streams):
            raise Failure("a stream ended before the long prompt had joined")
        for stream in streams:
            stream.leave()
    p50, p99 = statistics.median(alone), quantile(beside, 0.99)
    return {
        "alone_p50_milliseconds": p50 * 1e3,
        "joined_p99_milliseconds": p99 * 1e3,
        "joined_p99_of_alone_p50": p99 / p50,
    }


def embedding_rate(gateway, model, count, number):
    """Texts per second, over as many requests as make the time worth taking."""
    texts = sentences()
    requests = max(2, 64 // count)
    began = time.perf_counter()
    for request in range(requests):
        first = (number * 7 + request * count) % len(texts)
        batch = (texts + texts)[first:first + count]
        answer = gateway.request("/v1/embeddings", {"model": model, "input": batch})
        vectors = json.loads(answer)["data"]
        if len(vectors) != count:
            raise Failure(f"{count} texts gave {len(vectors)} vectors")
    return requests * count / (time.perf_counter() - began)


# --- What is asked


def completion(model, words, prompt_tokens, tokens):
    return "/v1/completions", {
        "model": model, "prompt": text_of(words, prompt_tokens), "max_tokens": tokens,
        "temperature": 0, "ignore_eos": True,
    }


def chat(model, messages):
    return "/v1/chat/completions", {
        "model": model, "messages": messages, "max_tokens": 32, "temperature": 0,
        "min_tokens": 8,  # a small model may have nothing to say to such a text
    }


def text_of(words, count):
    """So many words that no other text begins with, so that nobody's cache has them."""
    return " ".join(words.choices(WORDS, k=count))


def sentences():
    """Of the project's own texts, in their order: lengths as they come."""
    text = (PROJECT / "LICENSE").read_text() + (PROJECT / "README.md").read_text()
    found = re.split(r"(?<=[.;:])\s+", re.sub(r"\s+", " ", text))
    # The model takes 256 tokens at most.
    return [sentence for sentence in found if 20 < len(sentence) < 600][:256]


# --- What comes of it


def gaps(streams, begin, end):
    """Seconds between the tokens of each stream that were told between two moments."""
    found = []
    for stream in streams:
        told = [moment for moment in list(stream.told) if moment <= end]
        found += [after - before for before, after in zip(told, told[1:]) if after > begin]
    if not found:
        raise Failure("nothing was told meanwhile")
    return found


def quantile(values, share):
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def print_http(report):
    found = report["summary"]
    print(f"{report['model']}, {report['embedding_model']}; {machine_line(report)}")
    print(f"median (least to most) of {len(report['rounds'])} rounds")
    rows = [(f"{n} stream{'s' * (n > 1)}, tokens/s", f"streams_{n}_tokens_per_second", 1) for n in STREAMS]
    rows += [
        (f"first turn of {found['conversation_tokens']['median']:.0f} tokens, s", "first_turn_seconds", 3),
        ("second turn, s", "second_turn_seconds", 3),
        ("second turn / first", "second_turn_of_first", 3),
        (f"{RUNNING} streams alone, p50 ms", "alone_p50_milliseconds", 1),
        ("while 1,000 tokens join, p99 ms", "joined_p99_milliseconds", 1),
        ("joined p99 / alone p50", "joined_p99_of_alone_p50", 2),
    ]
    rows += [(f"embeddings of {n}, texts/s", f"embeddings_{n}_texts_per_second", 1) for n in TEXTS]
    if "peer_tokens_per_second" in found:
        rows.append(("onnxruntime-genai, tokens/s", "peer_tokens_per_second", 1))
        rows += [(f"{n} stream{'s' * (n > 1)} / its one", f"streams_{n}_of_peer", 2) for n in STREAMS]
    for title, key, digits in rows:
        figures = found[key]
        least, most = (f"{figures[name]:.{digits}f}" for name in ("least", "most"))
        print(f"{title:<34}{figures['median']:>10.{digits}f}  ({least} to {most})")
