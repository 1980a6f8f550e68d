"""The bound on a prompt: by bytes, by a tokenizer file, by what the endpoint counted; never below the truth."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.models import counting
from runtime.models.base import ChatMessage, ChatRequest, ToolCall, ToolSpec, prompt_tokens
from runtime.models.counting import PromptBounds, count_in, tokenize_body, tokenize_url
from runtime.models.spec import ModelSpec

ASK = ChatRequest((ChatMessage("system", "Be brief."), ChatMessage("user", "How many? " * 40)), max_tokens=100)
TYPED = ChatRequest(ASK.messages, 100, 7, "plan", (ToolSpec("search", "Find.", {"type": "object"}),))
MARGIN = 2 * 16 + 256
BYTES = 9 + 400


def spec(tokenizer: str = "", **more: Any) -> ModelSpec:
    return ModelSpec(endpoint="http://127.0.0.1:9/v1", model="m", key_env="", tokenizer=tokenizer, **more)


@pytest.fixture(autouse=True)
def _no_encoder_is_left() -> None:
    counting._encoder.cache_clear()


def test_bytes_bound_what_nobody_counts_and_the_rule_of_four_what_ostrom_serves() -> None:
    assert PromptBounds("m", spec()).of(ASK) == BYTES + MARGIN
    assert PromptBounds("m", spec("bytes4")).of(ASK) == prompt_tokens(ASK)
    assert PromptBounds("m", spec("endpoint")).of(ASK) == BYTES + MARGIN


# ---- counted by the endpoint


def test_a_count_of_the_endpoint_is_raised_by_a_twentieth_and_the_margin() -> None:
    bounds = PromptBounds("m", spec("endpoint"))
    assert not bounds.knows(ASK)

    bounds.learn(ASK, 101)

    assert bounds.knows(ASK)
    assert bounds.of(ASK) == 107 + MARGIN  # ⌈101 × 1.05⌉
    assert bounds.of(ChatRequest(ASK.messages, 5, seed=3, logprobs=2)) == 107 + MARGIN, "the limit changes no prompt"
    assert not bounds.knows(TYPED)


@pytest.mark.parametrize(
    ("counted", "bound"), [(400, BYTES), (10**8, BYTES), (3, 4), (2, BYTES), (0, BYTES), (10**9, BYTES)]
)
def test_a_count_that_cannot_be_or_is_above_the_bytes_changes_nothing(counted: int, bound: int) -> None:
    bounds = PromptBounds("m", spec("endpoint"))
    bounds.learn(ASK, counted)

    assert bounds.of(ASK) == bound + MARGIN


def test_old_counts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "REMEMBERED", 2)
    bounds = PromptBounds("m", spec("endpoint"))
    asks = [ChatRequest((ChatMessage("user", str(i)),), 1) for i in range(3)]
    for ask in asks:
        bounds.learn(ask, 1)

    assert [bounds.knows(ask) for ask in asks] == [False, True, True]


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://h:8000/v1", "http://h:8000/tokenize"),
        ("http://h:8000", "http://h:8000/tokenize"),
        ("https://h/models/a/v1", "https://h/models/a/tokenize"),
    ],
)
def test_the_route_is_beside_the_interface(endpoint: str, url: str) -> None:
    assert tokenize_url(endpoint) == url


def test_all_that_may_become_prompt_is_sent_to_be_counted() -> None:
    talk = ChatRequest(
        (*TYPED.messages, ChatMessage("assistant", "a", (ToolCall("c", "f", "{}"),))), 1, 0, "plan", TYPED.tools
    )
    body = tokenize_body("messages", talk, spec())
    text = tokenize_body("content", talk, spec())["content"]

    assert (body["model"], [m["role"] for m in body["messages"]]) == ("m", ["system", "user", "assistant"])
    assert body["messages"][2]["tool_calls"][0]["id"] == "c"
    for sent in (text, body["messages"][2]["content"]):
        assert '"name": "search"' in sent
        assert '"json_schema"' in sent
    assert all(part in text for part in ("Be brief.", "How many?", "a", "c", "f", "{}"))
    assert tokenize_body("messages", ASK, spec())["messages"][1] == {"role": "user", "content": "How many? " * 40}


@pytest.mark.parametrize(
    ("shape", "document", "count"),
    [
        ("messages", {"count": 12, "max_model_len": 512, "tokens": [1] * 12}, 12),
        ("messages", {"count": 12}, 12),
        ("messages", {"tokens": []}, None),  # llama.cpp, asked in the words of vLLM
        ("messages", {"count": 0, "tokens": []}, None),
        ("messages", {"count": "12"}, None),
        ("messages", {"count": 12.0}, None),
        ("messages", {"count": True}, None),
        ("messages", [], None),
        ("content", {"tokens": [1, 2, 3]}, 3),
        ("content", {"tokens": [{"id": 1, "piece": "a"}]}, 1),
        ("content", {"tokens": []}, None),
        ("content", {"error": "no"}, None),
    ],
)
def test_an_answer_of_the_route_is_a_count_or_nothing(shape: Any, document: object, count: int | None) -> None:
    assert count_in(shape, json.dumps(document).encode()) == count


def test_a_page_is_no_count() -> None:
    assert count_in("messages", b"<html>") is None


# ---- counted by a tokenizer file


class FakeTokenizer:
    """Three bytes are a token; notes what was switched off."""

    def __init__(self) -> None:
        self.encode_special_tokens = False
        self.off: list[str] = []
        self.encoded: list[str] = []

    @classmethod
    def from_str(cls, text: str) -> "FakeTokenizer":
        if text != "{}":
            raise Exception("expected `,` at line 1")
        return cls()

    def no_truncation(self) -> None:
        self.off.append("truncation")

    def no_padding(self) -> None:
        self.off.append("padding")

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        assert (self.off, self.encode_special_tokens, add_special_tokens) == (["truncation", "padding"], True, False)
        self.encoded.append(text)
        return SimpleNamespace(ids=[0] * -(-len(text.encode()) // 3))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=FakeTokenizer))
    (tmp_path / "tokenizer.json").write_text("{}")
    return str(tmp_path / "tokenizer.json")


def test_a_tokenizer_file_counts_all_texts_of_the_prompt_once(file: str) -> None:
    bounds = PromptBounds("m", spec(file))

    assert bounds.of(ASK) == -(-(3 + 134) * 21 // 20) + MARGIN
    assert bounds.of(ASK) < PromptBounds("m", spec()).of(ASK)
    assert bounds.of(TYPED) > bounds.of(ASK)
    assert bounds.of(TYPED) < PromptBounds("m", spec()).of(TYPED)
    encoded = counting._encoder("m", file).encoded
    assert len(encoded) == len(set(encoded)), "what was counted is remembered"


def test_a_count_above_the_bytes_is_not_used(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTokenizer, "encode", lambda self, text, **more: SimpleNamespace(ids=[0] * len(text)))

    assert PromptBounds("m", spec(file)).of(ASK) == BYTES + MARGIN


@pytest.mark.parametrize("content", [None, b"\xff", b"[]", b"nonsense"])
def test_a_file_that_is_no_tokenizer_is_named(file: str, content: bytes | None) -> None:
    Path(file).unlink() if content is None else Path(file).write_bytes(content)

    with pytest.raises(ConfigError, match=r"^model 'm': tokenizer '.*tokenizer.json' (cannot be read|is no tokenizer)"):
        PromptBounds("m", spec(file)).of(ASK)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(ConfigError, match=r"needs the package `tokenizers`: pip install 'ostrom\[tokenizer\]'"):
        PromptBounds("m", spec("tokenizer.json")).of(ASK)


# ---- the real package, where it is installed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level vocabulary with a special token, and with cutting and filling switched on, as some files have it."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=["<|im_end|>"], initial_alphabet=alphabet)
    made.train_from_iterator(["How many companies are there in the list of companies? " * 20], trainer)
    made.enable_truncation(4)
    made.enable_padding(length=8)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return str(path)


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=60) | st.just("<|im_end|>" * 5), max_size=5))
def test_a_real_tokenizer_bounds_what_a_chat_template_makes_of_the_texts(trained: str, texts: list[str]) -> None:
    import tokenizers

    exact = tokenizers.Tokenizer.from_file(trained)
    exact.no_truncation()
    exact.no_padding()
    request = ChatRequest(tuple(ChatMessage("user", text) for text in texts), 1)
    template = "".join(f"<|im_start|>user\n{text}<|im_end|>\n" for text in texts) + "<|im_start|>assistant\n"

    for special in (False, True):
        exact.encode_special_tokens = special
        plain = len(exact.encode("<|im_start|>user\n<|im_end|>\n").ids)
        truth = len(exact.encode(template).ids) - max(0, plain - 16) * len(texts)
        assert truth <= PromptBounds("m", spec(trained)).of(request) <= PromptBounds("m", spec()).of(request)
