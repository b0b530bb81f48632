"""Settings of the server: what may be opened to whom, and that a key is never shown."""

from __future__ import annotations

import pytest

from retro.common.errors import ConfigError
from retro.run.config import as_yaml, load_run_config
from retro.serve.config import KEY_VARIABLE, MASKED, ServeConfig
from retro.serve.run import listen, with_key

KEY = "sk-0123456789"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_alone_needs_no_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert with_key(ServeConfig(host=host)).api_key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "127.0.0.1.example.org"])
def test_any_other_address_needs_a_key_or_open_to_all(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"serve.host = .*: needs an API key beside it"):
        with_key(ServeConfig(host=host))
    assert with_key(ServeConfig(host=host, open_to_all=True)).api_key is None
    assert with_key(ServeConfig(host=host, api_key=KEY)).api_key is not None


def test_the_key_comes_from_the_setting_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "from-the-environment")
    found = [with_key(ServeConfig(**given)).api_key for given in ({}, {"api_key": KEY})]
    assert [one.get_secret_value() for one in found if one is not None] == ["from-the-environment", KEY]


@pytest.mark.parametrize("key", ["short", "has spaces in it", "línea-larga-ñ", "tab\tin-the-key", MASKED])
def test_what_cannot_be_a_key_is_refused_without_being_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"ServeConfig.api_key") as caught:
        ServeConfig(api_key=key)
    assert key == MASKED or key not in str(caught.value)
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match=r"ServeConfig.api_key"):
        with_key(ServeConfig())


def test_a_key_that_looks_like_a_number_is_a_key_and_is_printed_as_asterisks() -> None:
    config = load_run_config(None, ["serve.api_key=1234567890"])
    assert config.serve.api_key is not None
    assert config.serve.api_key.get_secret_value() == "1234567890"
    assert "1234567890" not in as_yaml(config) + repr(config) + str(config)
    assert MASKED in as_yaml(config)


def test_a_port_that_is_taken_is_named() -> None:
    first = listen(ServeConfig(port=0))
    port = first.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"serve.port = '127.0.0.1:{port}': needs an address that is free"):
        listen(ServeConfig(port=port))
    first.close()


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"serve.port = '192.0.2.1:0': needs an address"):
        listen(ServeConfig(host="192.0.2.1", port=0))
