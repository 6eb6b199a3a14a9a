"""Device profiles: shipped ones parse, a user's own is accepted by path, mistakes are named."""

import dataclasses
import itertools
import json
from importlib import resources
from pathlib import Path

import pytest

from edgert import DeviceError, devices

DATA = Path(__file__).parent / "data"
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
        ('form = "rows"', 'form = "rings"', "int8.form must be blocks or rows"),
        ('form = "blocks"', 'form = "rows"', "int4.form must be blocks, not 'rows'"),
        ("default = 64", "default = 33", "int4.block_size.default must be 16, 32, 64, 128 or 256, not 33"),
        ("default = 64", "default = 64\ndown = 33", "int4.block_size.down must be 16, 32"),
        ("default = 64", "", "the profile lacks 'int4.block_size.qkv'"),
        ("default = 64", "default = 64\ndwon = 32", "int4.block_size.dwon must be qkv, o, gate"),
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
    from edgert.engine import graph_session as session

    machine = dataclasses.replace(devices.here(), architecture="x86_64", features=frozenset(features))
    monkeypatch.setattr(devices, "here", lambda: machine)
    options = session.session_options(threads=1, spin=False)
    if exact:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")


# Profiles over others


def write(folder, name, text):
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_shipped_profiles_are_what_they_always_were():
    """Values as they were when each profile spelled out all of them; a change in one is to be meant."""
    expected = json.loads((DATA / "profiles.json").read_text("utf-8"))
    for name in devices.names():
        found = dataclasses.asdict(devices.load(name)) | {"source": None}
        assert json.loads(json.dumps(found)) == expected[name] | {"source": None}


def test_shipped_profiles_do_not_repeat_what_they_extend():
    for name in devices.names():
        text = resources.files("edgert.devices").joinpath(f"{name}.toml").read_text("utf-8")
        assert "# As qkv." not in text and "# As all." not in text


def test_the_old_form_still_loads(tmp_path):
    """Each kind of matrix by its own name, as all profiles had it before there was a default."""
    kinds = "\n".join(f"{kind} = 64" for kind in ("qkv", "o", "gate", "up", "down"))
    text = SHIPPED.replace("default = 64\n", f"{kinds}\n", 1)
    old = devices.load(write(tmp_path, "old.toml", text))
    assert dataclasses.replace(old, source="laptop-cpu") == devices.load("laptop-cpu")


def test_a_default_is_for_all_matrices_but_the_exceptions(tmp_path):
    text = SHIPPED.replace("default = 64", "default = 128\ndown = 16", 1)
    sizes = devices.load(write(tmp_path, "mine.toml", text)).int4.block_size
    assert sizes == {"qkv": 128, "o": 128, "gate": 128, "up": 128, "down": 16, "head": 32}


def test_a_profile_has_what_it_extends_and_its_own(tmp_path):
    text = 'extends = "raspberry-pi-4"\nname = "mine"\nthreads = 2\n'
    text += "[slower]\nblocks4 = 5.0\n[int4]\nhadamard = 0\n"
    mine, parent = devices.load(write(tmp_path, "mine.toml", text)), devices.load("raspberry-pi-4")
    assert (mine.name, mine.threads, mine.slower["blocks4"], mine.int4.hadamard) == ("mine", 2, 5.0, 0)
    assert mine.slower["blocks8"] == parent.slower["blocks8"] and mine.int4.rotate == parent.int4.rotate
    own = {"name", "threads", "slower", "int4", "source"}
    assert {
        field.name
        for field in dataclasses.fields(mine)
        if getattr(mine, field.name) != getattr(parent, field.name)
    } == own


def test_architectures_and_providers_are_not_joined(tmp_path):
    whole = '[processor]\nriscv64 = []\n[provider]\nname = "X"\n'
    write(
        tmp_path,
        "a.toml",
        'extends = "laptop-cpu"\nname = "a"\n[provider]\nname = "Y"\n[provider.options]\nb = "c"\n',
    )
    found = devices.load(write(tmp_path, "b.toml", f'extends = "a.toml"\nname = "b"\n{whole}'))
    assert found.processor == {"riscv64": ()}
    assert found.provider == devices.Provider("X")


def test_block_sizes_are_exceptions_or_start_anew(tmp_path):
    start = 'extends = "laptop-cpu"\nname = "mine"\n[int4.block_size]\n'
    but = devices.load(write(tmp_path, "but.toml", f"{start}down = 16\n")).int4.block_size
    assert (but["qkv"], but["down"], but["head"]) == (64, 16, 32)
    anew = devices.load(write(tmp_path, "anew.toml", f"{start}default = 128\n")).int4.block_size
    assert set(anew.values()) == {128}


def test_a_file_is_looked_for_beside_the_one_that_extends_it(tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    write(tmp_path / "shared", "base.toml", SHIPPED.replace('threads = "physical"', "threads = 7"))
    path = write(tmp_path, "mine.toml", 'extends = "shared/base.toml"\nname = "mine"\n')
    monkeypatch.chdir("/")
    assert (devices.load(path).threads, devices.load(path).source) == (7, str(Path(path).resolve()))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ['extends = "raspberry-pi-9"'],
            "a.toml: extends 'raspberry-pi-9', which is unknown: choose one of integ",
        ),
        (['extends = "gone.toml"'], "a.toml: extends 'gone.toml', which is unknown"),
        (["extends = 5"], "a.toml: extends 5, which is unknown"),
        (['extends = "a.toml"'], "a.toml: its profiles extend each other: .*a.toml -> .*a.toml$"),
        (
            ['extends = "b.toml"', 'extends = "a.toml"'],
            "a.toml: .* each other: .*a.toml -> .*b.toml -> .*a.toml$",
        ),
        (
            ['extends = "b.toml"', 'extends = "b.toml"'],
            "a.toml: .* each other: .*a.toml -> .*b.toml -> .*b.toml$",
        ),
        (['extends = "b.toml"', "name = ]"], "b.toml: not valid TOML"),
        (['extends = "laptop-cpu"'], "a.toml: the profile lacks 'name'"),
    ],
)
def test_profiles_that_can_not_be_extended_are_named(tmp_path, texts, message):
    for name, text in zip("ab", texts, strict=False):
        write(tmp_path, f"{name}.toml", text)
    with pytest.raises(DeviceError, match=message) as error:
        devices.load(str(tmp_path / "a.toml"))
    assert "\n" not in str(error.value)
