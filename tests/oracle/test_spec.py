"""What `--oracle` accepts, and what it says of the rest."""

import pytest

from gatekeeper.errors import OracleError
from gatekeeper.oracle.regions import Regions
from gatekeeper.oracle.sam import Sam
from gatekeeper.oracle.spec import build_segmenter


def test_regions_need_nothing():
    assert build_segmenter("regions") == Regions()


def test_sam_takes_a_checkpoint_and_perhaps_an_architecture(tmp_path):
    path = tmp_path / "a:b.pth"  # a colon may belong to the path
    path.write_bytes(b"x")
    assert build_segmenter(f"sam:{path}") == Sam(checkpoint=path)
    assert build_segmenter(f"sam:{path}:vit_h") == Sam(checkpoint=path, arch="vit_h")


@pytest.mark.parametrize(
    ("spec", "says", "hint"),
    [
        ("sam", "no checkpoint named", "sam:CHECKPOINT"),
        ("sam:", "no checkpoint named", "sam:CHECKPOINT"),
        ("sam:/none/such.pth:vit_b", "no checkpoint file", "--oracle regions"),
        ("regions:12", "nothing after a colon", "regions"),
        ("fastsam", "no such segmenter", "regions, sam"),
        ("", "no such segmenter", "regions"),
    ],
)
def test_the_rest_is_bad_input_with_a_hint(spec, says, hint):
    with pytest.raises(OracleError, match=says) as caught:
        build_segmenter(spec)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_an_unknown_architecture_is_named(tmp_path):
    path = tmp_path / "sam.pth"
    path.write_bytes(b"x")
    with pytest.raises(OracleError, match="'vit_g' is no Segment Anything architecture"):
        build_segmenter(f"sam:{path}:vit_g")
