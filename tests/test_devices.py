"""Device profiles: shipped ones parse, a user's own is accepted by path, mistakes are named."""

import itertools
from importlib import resources

import pytest

from edgert import DeviceError, devices

SHIPPED = resources.files("edgert.devices").joinpath("laptop-cpu.toml").read_text("utf-8")


@pytest.mark.parametrize("name", devices.names())
def test_every_shipped_profile_loads_under_its_own_name(name):
    profile = devices.load(name)
    assert profile.name == name and profile.title
    assert profile.prefill_chunk > 0 and profile.context > 0


@pytest.mark.parametrize("name", devices.names())
def test_every_value_has_its_reason(name):
    """A line that sets something is preceded by a comment, or follows another such line's comment."""
    lines = resources.files("edgert.devices").joinpath(f"{name}.toml").read_text("utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith(("#", "name", "title")):
            assert before.startswith("#"), f"{name}.toml: no reason for: {line}"


def test_detection_gives_a_reason():
    found = devices.detect()
    assert found.profile.name in devices.names()
    assert "processors" in found.reason or "cores" in found.reason


def test_threads_are_at_most_the_processors_allowed():
    import os

    assert 0 <= devices.physical_threads().count <= (os.cpu_count() or 1)


def test_a_users_own_profile(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace('"laptop-cpu"', '"mine"').replace('threads = "physical"', "threads = 3"))
    assert (devices.load(str(path)).name, devices.load(str(path)).threads) == ("mine", 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("context = 4096", "", "the profile lacks 'context'"),
        ("context = 4096", "context = ]", "not valid TOML"),
        ('form = "blocks"', 'form = "rings"', "int8.form must be blocks or rows"),
        ("down = 64", "down = 33", "block_size.down must be 16, 32"),
        ('"laptop-cpu"', '"My Laptop"', "name must be lower-case"),
        ("rotate = true", "", "the profile lacks 'rotate'"),
    ],
)
def test_mistakes_in_a_profile_are_named(tmp_path, old, new, message):
    assert old in SHIPPED
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace(old, new))
    with pytest.raises(DeviceError, match=message) as error:
        devices.load(str(path))
    assert str(path) in str(error.value)


def test_a_provider_that_is_not_there_is_named(bundles, tmp_path):
    import edgert

    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace("CPUExecutionProvider", "QNNExecutionProvider"))
    with pytest.raises(DeviceError, match="needs QNNExecutionProvider"):
        edgert.load(bundles(), device=str(path))


@pytest.mark.parametrize(("features", "exact"), [({"avx2"}, True), ({"avx2", "avx512_vnni"}, False)])
def test_products_that_would_saturate_are_exact_where_there_is_no_vnni(monkeypatch, features, exact):
    """With VNNI nothing saturates, and the exact kernels would cost time and a copy of the weights."""
    import dataclasses

    from edgert.engine import graph_session as session

    machine = dataclasses.replace(devices.here(), architecture="x86_64", features=frozenset(features))
    monkeypatch.setattr(devices, "here", lambda: machine)
    options = session.session_options(threads=1, spin=False)
    if exact:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")
