"""What a spec refuses about hosts, keys, prices and limits, and what it works out from them."""

from datetime import date
from typing import Any

import pytest

from runtime.errors import ConfigError
from runtime.models.spec import ModelSpec

OPENAI = "https://api.openai.com/v1"
PRICED: dict[str, Any] = {"input_usd": 1, "output_usd": 1}
TIER: dict[str, Any] = {"above_tokens": 5, "input_usd": 1, "output_usd": 1}


def spec(endpoint: str = "http://127.0.0.1:9/v1", **more: Any) -> ModelSpec:
    return ModelSpec(**({"endpoint": endpoint, "model": "m", "key_env": ""} | more))


def refused(**fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        spec(**fields)
    return str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "169.254.170.2", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518",
        "169.254.169.254.", "[fe80::1]", "[fe80::1%25eth0]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fd00:ec2::254]", "168.63.129.16", "100.100.100.200",
        "192.0.0.192", "metadata.google.internal", "METADATA.google.internal.", "metadata", "instance-data",
        "224.0.0.1", "0.0.0.0", "[::]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("port", ["", ":8000"])
def test_hosts_where_clouds_keep_credentials_are_never_asked(host: str, port: str) -> None:
    assert refused(endpoint=f"http://{host}{port}/v1").startswith("ModelSpec: endpoint: ")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "10.0.0.5", "192.168.1.7", "gpu-7", "metadata.example.com", "[2001:db8::1]"],
)
def test_other_hosts_are_fine(host: str) -> None:
    assert spec(f"http://{host}:8000/v1").endpoint == f"http://{host}:8000/v1"


@pytest.mark.parametrize("endpoint", [OPENAI, "https://us.api.openai.com/v1", "https://API.OPENAI.COM/v1"])
def test_openai_s_key_goes_to_openai_without_being_named(endpoint: str) -> None:
    assert ModelSpec(endpoint=endpoint, model="m").key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:8000/v1", "http://api.openai.com/v1", "https://api.openai.com.example/v1",
        "https://notapi.openai.com/v1", "https://openrouter.ai/api/v1",
    ],
)  # fmt: skip
def test_nobody_else_gets_a_key_that_was_not_named_for_them(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r'^ModelSpec: key_env: this endpoint is not OpenAI\'s.*key_env = ""'):
        ModelSpec(endpoint=endpoint, model="m")
    assert ModelSpec(endpoint=endpoint, model="m", key_env="OPENAI_API_KEY").key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tiers": [TIER]}, "tiers only with them"),
        ({"cache_write_usd": 1}, "cache_write_usd, tiers only with them"),
        (PRICED | {"cache_write_usd": -1}, "cache_write_usd: must be an amount of dollars"),
        (PRICED | {"tiers": [{"above_tokens": 5, "input_usd": 1}]}, "tiers.0.output_usd: Field required"),
        (PRICED | {"tiers": [TIER | {"above_tokens": 0}]}, "tiers.0.above_tokens: "),
        (PRICED | {"tiers": [TIER | {"above": 5}]}, "tiers.0.above: no such field; there are above_tokens, input_usd"),
        (PRICED | {"tiers": [TIER | {"input_usd": "x"}]}, "tiers.0.input_usd: must be"),
        (PRICED | {"tiers": [TIER, TIER]}, "tiers: above_tokens must rise"),
        ({"limit_field": "window"}, "so declare window_tokens"),
        ({"seed_bits": 64}, "seed_bits: "),
        ({"priced_on": "yesterday"}, "priced_on: "),
        ({"tokenizer": "tokenizer.bin"}, "tokenizer: give"),
        ({"stream": "yes"}, "stream: "),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(wrong: dict[str, Any], said: str) -> None:
    assert said in refused(**wrong)


def test_a_date_may_be_written_as_toml_does_or_as_text() -> None:
    assert spec(priced_on=date(2026, 10, 2)) == spec(priced_on="2026-10-02")


@pytest.mark.parametrize(
    ("fields", "sent", "unproved"),
    [
        ({}, "max_tokens", True),
        ({"endpoint": OPENAI}, "max_completion_tokens", False),
        ({"limit_field": "max_tokens"}, "max_tokens", False),
        ({"endpoint": OPENAI, "limit_field": "max_tokens"}, "max_tokens", False),
        ({"limit_field": "max_completion_tokens"}, "max_completion_tokens", False),
        ({"limit_field": "window", "window_tokens": 512}, None, False),
        ({"fixed_usage": (5, 5)}, "max_tokens", False),
        ({"tokenizer": "bytes4"}, "max_tokens", False),
        ({"tokenizer": "endpoint"}, "max_tokens", True),
    ],
)
def test_the_limit_goes_into_one_field_and_is_probed_where_nobody_knows(
    fields: dict[str, Any], sent: str | None, unproved: bool
) -> None:
    assert (spec(**fields).sent_limit, spec(**fields).unproved) == (sent, unproved)
