"""The catalogue: where models come from, which one wins, what they cost, and what is said when something is wrong."""

import pickle
import subprocess
import sys
from datetime import date
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ConfigError
from runtime.models import catalog, prices
from runtime.models.base import ChatModel
from runtime.models.catalog import Catalog, ModelSpec, fill_in
from runtime.models.openai import OpenAIModel
from runtime.models.scripted import ScriptedModel
from runtime.usage import Price, Tier, TieredPrice

HERE = "http://127.0.0.1:9/v1"
TODAY = date(2026, 11, 20)


@pytest.fixture(autouse=True)
def _nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `ostrom.toml` and no variables of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def complaint(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ---- the spec


def test_a_spec_knows_its_price_and_forgets_a_slash_at_the_end() -> None:
    spec = ModelSpec(
        endpoint=HERE + "/", model="m", key_env="", input_usd=0.15, output_usd="0.6", cached_usd=Decimal("0.075")
    )

    assert (spec.endpoint, spec.price) == (HERE, Price(150_000, 600_000, 0, 75_000))


def test_a_price_of_zero_is_a_price_and_no_price_is_none() -> None:
    free = ModelSpec(endpoint=HERE, model="m", key_env="", input_usd=0, output_usd=0)

    assert free.price == Price()
    assert ModelSpec(endpoint=HERE, model="m", key_env="").price is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"endpoint": "example.com/v1"}, "endpoint: give a base URL"),
        ({"endpoint": "ftp://127.0.0.1/v1"}, "endpoint: give a base URL"),
        ({"endpoint": "http://127.0.0.1 /v1"}, "endpoint: give a base URL"),
        ({"endpoint": "http://127.0.0.1:99999/v1"}, "endpoint: Port out of range"),
        ({"endpoint": "http://me:secret@127.0.0.1/v1"}, "endpoint: a base URL has no user"),
        ({"endpoint": "http://127.0.0.1/v1?key=secret"}, "endpoint: a base URL has no user"),
        ({"endpoint": "http://169.254.169.254/v1"}, "endpoint: link-local"),
        ({"endpoint": "http://[fe80::1]/v1"}, "endpoint: link-local"),
        ({"model": ""}, "model: "),
        ({"key_env": "sk-secret"}, "key_env: give the NAME"),
        ({"api_key": "sk-secret"}, "api_key: no such field; there are endpoint, model, key_env"),
        ({"input_usd": 1.0}, "input_usd and output_usd go together"),
        ({"cached_usd": 1.0}, "input_usd and output_usd go together"),
        ({"input_usd": float("nan"), "output_usd": 1}, "input_usd: must be an amount of dollars"),
        ({"input_usd": 1, "output_usd": -1}, "output_usd: must be an amount of dollars"),
        ({"window_tokens": 0}, "window_tokens: "),
        ({"window_tokens": True}, "window_tokens: "),
        ({"window_tokens": "8"}, "window_tokens: "),
        ({"timeout_s": 0}, "timeout_s: "),
        ({"timeout_s": float("inf")}, "timeout_s: "),
        ({"max_parallel": 0}, "max_parallel: "),
        ({"requests_per_minute": 0}, "requests_per_minute: "),
        ({"tokens_per_minute": 0}, "tokens_per_minute: "),
        ({"limit_field": "max_new_tokens"}, "limit_field: "),
        ({"tokenizer": "cl100k"}, "tokenizer: "),
    ],
)
def test_a_wrong_spec_names_the_field_and_shows_no_value(wrong: dict[str, Any], said: str) -> None:
    text = complaint(ModelSpec, **({"endpoint": HERE, "model": "m", "key_env": ""} | wrong))

    assert said in text
    assert "secret" not in text


def test_all_faults_of_a_spec_are_told_at_once() -> None:
    assert complaint(ModelSpec, model="") == (
        "ModelSpec: endpoint: Field required; model: String should have at least 1 character"
    )


# ---- the names


def test_the_simulated_models_are_built_in_and_survive_pickle() -> None:
    one = Catalog()

    assert one.names() == ("sim/large", "sim/small")
    for name in one.names():
        model = one.get(name)
        copy = pickle.loads(pickle.dumps(model))
        assert (model.name, model.virtual, one.get(name) is model) == (name, True, True)
        assert (copy.name, copy.price, copy.window_tokens) == (name, model.price, model.window_tokens)


def test_a_user_s_model_is_handed_out_as_it_is() -> None:
    mine = ScriptedModel(["hello"])

    assert Catalog({"mine": mine}).get("mine") is mine


def test_a_spec_becomes_a_model_under_the_catalogue_s_name_that_survives_pickle() -> None:
    model = Catalog({"small": ModelSpec(endpoint=HERE, model="gpt-4o-mini", key_env="")}, today=TODAY).get("small")
    copy = pickle.loads(pickle.dumps(model))

    assert isinstance(model, OpenAIModel)
    assert (model.name, model.virtual, model.shrinkable, model.window_tokens) == ("small", False, True, 128_000)
    assert model.price == Price.per_million("0.15", "0.6", "0.075")
    assert (copy.name, copy.spec, copy.price, copy.window_tokens) == (model.name, model.spec, model.price, 128_000)


def test_what_is_handed_in_wins_over_the_file_and_the_file_over_what_is_built_in(tmp_path: Path) -> None:
    file = tmp_path / "ostrom.toml"
    file.write_text(
        f'[models.a]\nendpoint = "{HERE}"\nmodel = "file-a"\nkey_env = ""\n'
        f'[models."sim/small"]\nendpoint = "{HERE}"\nmodel = "file-small"\nkey_env = ""\n'
        '[other]\nkey = "is not read here"\n'
    )

    found = Catalog({"a": ModelSpec(endpoint=HERE, model="mine", key_env="")})

    assert found.names() == ("a", "sim/large", "sim/small")
    assert [model_id(found.get(name)) for name in ("a", "sim/small")] == ["mine", "file-small"]


def test_the_file_may_be_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "ostrom.toml").write_text("[models.here]\nnothing = 1\n")
    other = tmp_path / "other.toml"
    other.write_text(
        f'[models.there]\nendpoint = "{HERE}"\nmodel = "m"\nkey_env = ""\ninput_usd = 0.1\noutput_usd = 1\ntimeout_s = 30\n'
    )

    model = Catalog(toml=other).get("there")

    assert model.price == Price.per_million("0.1", "1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.big]\nmodel = 'm'\n", "[models.big]: endpoint: Field required"),
        ("[models.big]\nendpoint = 'nowhere'\nmodel = 'm'\n", "[models.big]: endpoint: give a base URL"),
        ("[models]\nbig = 'gpt'\n", "[models.big]: must be a table"),
        ("[models.Big]\n", "[models.Big]: model name 'Big' is not a usable name"),
        ("models = 3\n", "models must be tables"),
        ("[models.big\n", "no valid TOML"),
        ("a = " + "[" * 5_000, "no valid TOML"),
        ("#" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_a_fault_in_the_file_names_file_table_and_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ostrom.toml").write_text(text)

    text = complaint(Catalog)

    assert text.startswith("ostrom.toml: ")
    assert said in text
    assert "ModelSpec" not in text


def test_a_file_that_was_named_and_is_not_there_is_a_fault(tmp_path: Path) -> None:
    assert complaint(Catalog, toml=tmp_path / "none.toml").endswith(
        "none.toml: cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smal", "did you mean 'small' or 'sim/small'?"),
        ("large", "did you mean 'sim/large'"),
        ("zzz", "There are: sim/large, sim/small, small."),
        ("zzz", "[models.NAME]"),
        ("openai/gpt-4o", "set OPENAI_BASE_URL"),
    ],
)
def test_an_unknown_name_is_told_what_there_is_and_how_to_add_one(name: str, said: str) -> None:
    assert said in complaint(Catalog({"small": ScriptedModel(["hello"])}).get, name)


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a/"])
def test_a_name_must_be_usable_as_a_file_name(name: str) -> None:
    assert "model name" in complaint(Catalog, {name: ScriptedModel(["hello"])})


def test_what_is_no_model_is_refused() -> None:
    assert complaint(Catalog, {"a": "gpt-4o"}) == "models['a'] is a str; give a ModelSpec or a ChatModel"


def test_any_model_of_the_endpoint_in_the_environment_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", HERE)
    found = Catalog()
    model = found.get("openai/Qwen/Qwen3-8B")

    assert (model.name, model_id(model), found.names()) == (
        "openai/Qwen/Qwen3-8B",
        "Qwen/Qwen3-8B",
        ("sim/large", "sim/small"),
    )
    assert "no model 'openai/'" in complaint(found.get, "openai/")


def test_a_shipped_catalogue_needs_nothing_of_the_place_it_was_made_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host has another folder, other variables, and our packages on its path without being installed."""
    (tmp_path / "ostrom.toml").write_text(f'[models.a]\nendpoint = "{HERE}"\nmodel = "gpt-4o-mini"\nkey_env = ""\n')
    monkeypatch.setenv("OPENAI_BASE_URL", HERE)
    shipped = pickle.dumps(Catalog({"fake": ScriptedModel(["hello"])}, today=TODAY))

    (tmp_path / "ostrom.toml").unlink()
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setattr(catalog, "entry_points", lambda group: [])
    monkeypatch.setattr(prices, "_entry", lambda endpoint, model: None)
    catalog._solvers.cache_clear()
    copy = pickle.loads(shipped)

    assert copy.names() == ("a", "fake", "sim/large", "sim/small")
    assert (copy.get("a").price, copy.get("sim/small").name) == (Price.per_million("0.15", "0.6", "0.075"), "sim/small")
    assert model_id(copy.get("openai/m")) == "m"
    catalog._solvers.cache_clear()


def test_a_catalogue_can_be_shipped_although_one_of_its_models_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "entry_points", lambda group: [])
    catalog._solvers.cache_clear()
    copy = pickle.loads(pickle.dumps(Catalog({"fake": ScriptedModel(["hello"])})))

    assert copy.get("fake").name == "scripted"
    assert "needs at least one solver" in complaint(copy.get, "sim/small")
    catalog._solvers.cache_clear()


def test_a_faulty_address_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")

    assert "OPENAI_BASE_URL: ModelSpec: endpoint: give a base URL" in complaint(Catalog().get, "openai/m")


def test_a_missing_key_is_named_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Catalog(
        {
            "paid": ModelSpec(endpoint=HERE, model="m", key_env="MY_KEY"),
            "local": ModelSpec(endpoint=HERE, model="m", key_env=""),
            "fake": ScriptedModel(["hello"]),
        }
    )

    assert [found.missing_key(name) for name in ("paid", "local", "fake", "sim/small")] == ["MY_KEY", None, None, None]

    monkeypatch.setenv("MY_KEY", "sk-something")

    assert found.missing_key("paid") is None


def test_a_solver_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("mine", "no.such.module:SOLVER", "ostrom.solvers")
    monkeypatch.setattr(catalog, "entry_points", lambda group: [broken])
    catalog._solvers.cache_clear()

    assert "the solver 'mine' (no.such.module:SOLVER) cannot be loaded" in complaint(Catalog().get, "sim/small")

    catalog._solvers.cache_clear()


def test_the_catalogue_is_read_without_loading_the_sdk() -> None:
    """Importing openai takes a second, and `ostrom --help` shall not wait for it."""
    program = (
        "import sys; from runtime.models.catalog import Catalog; Catalog().get('sim/small');"
        " print('openai' in sys.modules, 'genai_prices' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False False"


# ---- prices and windows


def test_the_installed_list_knows_a_common_model() -> None:
    spec = fill_in(ModelSpec(endpoint="https://api.openai.com/v1", model="gpt-4o-mini"), TODAY)

    assert (spec.price, spec.window_tokens) == (Price.per_million("0.15", "0.6", "0.075"), 128_000)


def test_a_model_that_is_not_listed_has_no_price() -> None:
    spec = ModelSpec(endpoint=HERE, model="my-own-model", key_env="")

    assert fill_in(spec, TODAY) == spec
    assert OpenAIModel("m", spec).price is None


def test_declared_prices_win_over_the_list_while_the_window_is_looked_up() -> None:
    spec = fill_in(ModelSpec(endpoint=HERE, model="gpt-4o-mini", key_env="", input_usd=0, output_usd=0), TODAY)

    assert (spec.price, spec.window_tokens) == (Price(), 128_000)


def test_a_declared_window_wins_over_the_list() -> None:
    assert (
        fill_in(ModelSpec(endpoint=HERE, model="gpt-4o-mini", key_env="", window_tokens=4_096), TODAY).window_tokens
        == 4_096
    )


def test_what_the_list_knows_of_long_prompts_becomes_tiers() -> None:
    google = "https://generativelanguage.googleapis.com/v1beta/openai"
    price = fill_in(ModelSpec(endpoint=google, model="gemini-2.5-pro", key_env="GEMINI_API_KEY"), TODAY).price

    assert isinstance(price, TieredPrice)
    assert price.tiers == (
        Tier(0, 1_250_000, 10_000_000, 125_000, None),
        Tier(200_000, 2_500_000, 15_000_000, 250_000, None),
    )


def test_the_record_says_where_each_price_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", HERE)
    local: dict[str, Any] = {"endpoint": HERE, "key_env": ""}
    found = Catalog(
        {
            "listed": ModelSpec(model="gpt-4o-mini", **local),
            "mine": ModelSpec(model="gpt-4o-mini", input_usd=1, output_usd=1, **local),
            "dated": ModelSpec(model="x", input_usd=1, output_usd=1, priced_on=date(2026, 10, 2), **local),
            "nobody-knows": ModelSpec(model="my-own-model", **local),
        },
        today=TODAY,
    )

    assert {name: found.priced_by(name) for name in (*found.names(), "openai/gpt-4o-mini")} == {
        "listed": f"{prices.version()}, as of 2026-11-20",
        "mine": "declared",
        "dated": "declared as of 2026-10-02",
        "nobody-knows": "unknown",
        "sim/small": "declared by the model",
        "sim/large": "declared by the model",
        "openai/gpt-4o-mini": f"{prices.version()}, as of 2026-11-20",
    }


def test_a_price_of_one_s_own_with_tiers_and_a_date_is_read_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "ostrom.toml").write_text(
        f'''
        [models.big]
        endpoint = "{HERE}"
        model = "gpt-4o-mini"
        key_env = ""
        input_usd = 1.25
        output_usd = 10
        cached_usd = "0.125"
        cache_write_usd = 1.5
        priced_on = 2026-10-02
        tiers = [{{ above_tokens = 200_000, input_usd = 2.5, output_usd = 15 }}]
        '''
    )
    found = Catalog()

    price = found.get("big").price
    assert isinstance(price, TieredPrice)
    assert price.tiers == (
        Tier(0, 1_250_000, 10_000_000, 125_000, 1_500_000),
        Tier(200_000, 2_500_000, 15_000_000, None, None),
    )
    assert found.priced_by("big") == "declared as of 2026-10-02"


def model_id(model: ChatModel) -> str:
    assert isinstance(model, OpenAIModel)
    return model.spec.model
