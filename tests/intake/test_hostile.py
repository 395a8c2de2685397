"""Hostile files are named for what they would do, and nothing of them is run."""

import json
import pickle
import sys
import zipfile
from pathlib import Path

import forms
import hostile
import pytest
import torch

from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake.child import inspect_tree
from gatekeeper.intake.open import open_model
from gatekeeper.types import Severity

SAMPLES = tuple(hostile.payloads(Path("/nonexistent/canary")))


@pytest.fixture(scope="module")
def payload_reports(tmp_path_factory):
    """Every payload, bare and in a torch zip, read by one child; and their canary."""
    folder = tmp_path_factory.mktemp("payloads")
    canary = folder.parent / "canary"
    for number, (body, _) in enumerate(hostile.payloads(canary).values()):
        content = hostile.program(body, protocol=4)
        (folder / f"{number}.bare").write_bytes(content)
        members = {"data.pkl": content, "version": b"3\n"}
        (folder / f"{number}.zip").write_bytes(hostile.torch_zip("archive", members))
    names = sorted(path.name for path in folder.iterdir())
    return inspect_tree(folder, names), canary


def _report(path: Path, content: bytes) -> dict:
    path.write_bytes(content)
    return inspect_tree(path.parent, [path.name])[path.name]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("wrapped", ["bare", "zip"])
def test_payload_is_named_and_not_run(sample, wrapped, payload_reports):
    reports, canary = payload_reports
    _, name = hostile.payloads(canary)[sample]
    report = reports[f"{SAMPLES.index(sample)}.{wrapped}"]
    assert any(name in g for g in report["unsafe"]), report
    assert not canary.exists()


@pytest.mark.parametrize("sample", ["os.system", "collect_env.run", "hidden by POP"])
def test_payload_alone_leaves_no_model_and_a_critical_finding(sample, tmp_path):
    canary = tmp_path / "canary"
    folder = tmp_path / "model"
    folder.mkdir()
    body, name = hostile.payloads(canary)[sample]
    (folder / "model.pth").write_bytes(hostile.program(body))
    before = set(sys.modules)
    opened = open_model(folder, uri="hostile")
    assert opened.model is None
    assert opened.counts()["static.unsafe_load"] == 1
    assert opened.findings[0].severity is Severity.CRITICAL
    assert name in opened.findings[0].message
    assert not canary.exists()
    assert "torch.utils.collect_env" not in set(sys.modules) - before


def test_samples_would_have_run(tmp_path):
    """The plainest payload does fire when unpickled: the canary proves something."""
    canary = tmp_path / "canary"
    body, _ = hostile.payloads(canary)["builtins.eval"]
    pickle.loads(hostile.program(body))
    assert canary.exists()


def test_weights_beside_a_call_are_recovered_and_the_model_still_fails(tmp_path):
    module = forms.tiny_open_clip()
    root = forms.bin_local_dir(tmp_path / "model", module)
    canary = tmp_path / "canary"
    path = root / "open_clip_pytorch_model.bin"

    class Payload:
        def __reduce__(self):
            return eval, (f"open({str(canary)!r}, 'w')",)

    torch.save({"state_dict": module.state_dict(), "extra": Payload()}, path)
    opened = open_model(root, uri="m")
    assert opened.model is not None
    assert opened.counts()["static.unsafe_load"] == 1
    assert torch.equal(opened.model.state_dict()["visual.proj"], module.visual.proj)
    assert not canary.exists()


ODD_NAMES = ("notes.dat", "weights.txt", "0.bin", "logo.png", "model.safetensors.old", "LICENSE")


def test_payload_under_another_name_is_found(tmp_path):
    body = hostile.program(hostile.payloads(tmp_path / "canary")["os.system"][0])
    for name in ODD_NAMES:
        (tmp_path / name).write_bytes(body)
    reports = inspect_tree(tmp_path, ODD_NAMES)
    assert {name: r["unsafe"] for name, r in reports.items()} == {
        name: ["os.system"] for name in ODD_NAMES
    }


def test_payload_beside_a_good_model_fails_it(tmp_path):
    root = forms.local_dir(tmp_path / "model", forms.tiny_open_clip())
    body = hostile.program(hostile.payloads(tmp_path / "canary")["os.system"][0])
    (root / "notes.dat").write_bytes(body)
    opened = open_model(root, uri="m")
    assert opened.model is not None
    (finding,) = [f for f in opened.findings if f.kind == "unsafe_load"]
    assert finding.evidence["file"] == "notes.dat"
    assert finding.evidence["globals"] == ["os.system"]


def test_protocol_0_payload_without_magic_is_found(tmp_path):
    report = _report(tmp_path / "vocab", b"cos\nsystem\n(S'touch /tmp/x'\ntR.")
    assert report["unsafe"] == ["os.system"]


def test_payload_in_second_zip_member_with_odd_name_is_found(tmp_path):
    module = forms.tiny_open_clip()
    root = forms.bin_local_dir(tmp_path / "model", module)
    path = root / "open_clip_pytorch_model.bin"
    top = zipfile.ZipFile(path).namelist()[0].split("/")[0]
    body = hostile.program(hostile.payloads(tmp_path / "canary")["os.system"][0])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{top}/.data/thumbnail.jpg", body)
    opened = open_model(root, uri="m")
    (finding,) = [f for f in opened.findings if f.kind == "unsafe_load"]
    assert "os.system" in finding.evidence["globals"][0]
    assert "thumbnail.jpg" in finding.evidence["globals"][0]


@pytest.mark.parametrize("cut", [1, 3])
def test_payload_before_a_broken_tail_is_both(cut, tmp_path):
    body = hostile.program(hostile.payloads(tmp_path / "canary")["os.system"][0] + b"}q\x00K\x01")
    report = _report(tmp_path / "model.bin", body[:-cut] + b"\xff")
    assert report["unsafe"] == ["os.system"]
    assert report["broken"]


def _weights_zip(tmp_path: Path) -> bytes:
    path = tmp_path / "source.pt"
    torch.save({f"w{i}": torch.ones(4) for i in range(10)}, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (hostile.flip_flag, "encrypted"),
        (lambda z: hostile.flip_flag(z, central=False), "disagree"),
        (lambda z: hostile.flip_flag(z, local=False), "disagree"),
        (hostile.rename_local, "disagree"),
        (lambda z: z + b"extra", "trailing"),
        (lambda z: b"extra" + z, "behind other bytes"),
        (lambda z: z[:-9], "end record"),
        (lambda z: z[:200] + b"\x00" + z[201:], ""),
    ],
)
def test_malformed_zip_is_refused(change, word, tmp_path):
    report = _report(tmp_path / "model.pt", change(_weights_zip(tmp_path)))
    assert report["broken"], report
    assert word in report["broken"][0]
    assert report["spans"] == {}


def test_encrypted_flag_still_names_the_payload(tmp_path):
    body = hostile.program(hostile.payloads(tmp_path / "canary")["os.system"][0])
    archive = hostile.flip_flag(hostile.torch_zip("archive", {"data.pkl": body}))
    report = _report(tmp_path / "model.pt", archive)
    assert report["broken"]
    assert report["unsafe"] == ["os.system"]


@pytest.mark.parametrize("made", [hostile.bomb, hostile.lying_bomb])
def test_zip_bomb_is_refused(made, tmp_path):
    report = _report(tmp_path / "model.pt", made())
    assert "bomb" in report["broken"][0] or "unpacks to more" in report["broken"][0]


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    assert "two members" in inspect_tree(tmp_path, [path.name])[path.name]["broken"][0]


def test_wrong_checksum_is_refused(tmp_path):
    archive = bytearray(_weights_zip(tmp_path))
    at = archive.find(b"PK\x03\x04", 1) - 40
    archive[at] ^= 0xFF
    assert _report(tmp_path / "model.pt", bytes(archive))["broken"]


HEADERS = {
    "huge header": (b"{" + b" " * 100, b"", 1 << 40),
    "overlap": (
        json.dumps(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            }
        ).encode(),
        bytes(12),
        None,
    ),
    "gap": (
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}).encode(),
        bytes(12),
        None,
    ),
    "wrong size": (
        json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode(),
        bytes(8),
        None,
    ),
    "trailing": (
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode(),
        bytes(9),
        None,
    ),
    "twice": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
        None,
    ),
    "negative": (
        json.dumps({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}).encode(),
        bytes(8),
        None,
    ),
    "no json": (b"{nonsense", b"", None),
}


@pytest.mark.parametrize("sample", HEADERS)
def test_malformed_safetensors_is_refused(sample, tmp_path):
    header, body, length = HEADERS[sample]
    content = hostile.safetensors(header, body)
    if length is not None:
        content = length.to_bytes(8, "little") + content[8:]
    assert _report(tmp_path / "model.safetensors", content)["broken"]


def test_tensor_beyond_its_storage_is_refused(tmp_path):
    view = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00(M\xff\xfft(K\x01t\x89}tR"
    )
    archive = hostile.torch_zip("archive", {"data.pkl": hostile.program(view), "data/0": bytes(16)})
    report = _report(tmp_path / "model.pt", archive)
    assert "beyond its storage" in report["broken"][0]


BOMBS = {
    "nested tuples as a key": b"\x80\x02})q\x00"
    + b"".join(b"h%c" % (i - 1) * 1 + b"\x86q%c" % i for i in range(1, 60))
    + b"Ns.",
    "doubling list": b"\x80\x02]q\x00"
    + b"".join(b"0]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60))
    + b".",
    "memo set twice": b"\x80\x02}q\x00q\x00.",
    "memo never set": b"\x80\x02h\x07.",
    "huge length": b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"x.",
    "unknown opcode": b"\x80\x02\xfe.",
    "EXT": b"\x80\x02\x82\x01.",
    "out of band buffer": b"\x80\x05\x97.",
    "bytes after STOP": b"\x80\x02}.extra",
    "endless marks": b"\x80\x02" + b"(" * 100_000,
    "long number": b"\x80\x02L" + b"9" * 60_000 + b"L\n.",
    "recursive list": b"\x80\x02]q\x00h\x00a\x80\x02.\x00",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sample", BOMBS)
def test_pickle_games_are_malformed(sample, tmp_path):
    report = _report(tmp_path / "model.pkl", BOMBS[sample])
    if sample == "doubling list":  # small as data: only whoever walks it blindly is bombed
        return
    assert report["broken"], sample
    assert report["unsafe"] == []


def test_torchscript_is_unsafe_yet_its_weights_are_read(tmp_path):
    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(5))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    path = tmp_path / "model.pt"
    torch.jit.script(Tower()).save(str(path))
    report = inspect_tree(tmp_path, [path.name])[path.name]
    assert report["container"] == "torchscript"
    assert "TorchScript" in report["unsafe"][0]
    assert "layers.4.weight" in report["spans"]


def test_remote_code_of_a_tokenizer_is_a_finding(tmp_path):
    root = forms.local_dir(tmp_path / "model", forms.tiny_open_clip())
    (root / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["evil.Tok", null]}}'
    )
    opened = open_model(root, uri="m")
    (finding,) = [f for f in opened.findings if f.kind == "unsafe_load"]
    assert "evil.Tok" in finding.message


def test_a_child_out_of_memory_is_a_finding_and_the_rest_is_read(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + b"(" * 9_000_000)
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02}.")
    reports = inspect_tree(tmp_path, ["a.pkl", "b.pkl"], memory=64 << 20)
    assert reports["a.pkl"]["broken"]
    assert reports["b.pkl"]["broken"] == [] or "memory" in reports["b.pkl"]["broken"][0]


def test_a_child_out_of_time_is_a_finding(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + b"N0" * 2_000_000 + b"N.")
    reports = inspect_tree(tmp_path, ["a.pkl"], wall_s=0.2)
    assert "time" in reports["a.pkl"]["broken"][0]


def test_nothing_to_read_is_bad_input(tmp_path):
    (tmp_path / "README.md").write_text("no model here")
    with pytest.raises(UnsupportedModelError, match="no model") as error:
        open_model(tmp_path, uri="m")
    assert "checkpoint" in error.value.hint
