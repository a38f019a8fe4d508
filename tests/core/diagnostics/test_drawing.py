"""`summary --graph`: the drawing holds the names of the modules and the shapes between them."""

import re
import shutil
import xml.etree.ElementTree as ET

import pytest

from core.cli.summary import main
from core.common.errors import UserError
from tests.support.optional import library

library("torchview", extra="graph")
SMALL = "experiments.tiny --device cpu --model ResNet --depth 4".split()


def test_a_resnet_is_drawn_with_the_names_of_its_blocks_and_its_shapes(tmp_path, capsys):
    place = tmp_path / "net.gv"
    assert main([*SMALL, "--graph", str(place)]) == 0
    text = place.read_text()
    for block in (f"layer{stage}.{place}" for stage in (1, 2, 3, 4) for place in (0, 1)):
        assert f"{block} BasicBlock" in text
        assert f"{block}.conv1 Conv2d" in text
    shown = re.search(r"layer2\.0\.conv1 Conv2d.*?input:.*?(\(1, .*?\)).*?output:.*?(\(1, .*?\))", text, re.DOTALL)
    assert shown.groups() == ("(1, 64, 2, 2)", "(1, 128, 1, 1)")
    assert "->" in text
    assert f"the network is drawn in {place}" in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not installed: apt-get install graphviz")
def test_the_picture_shows_the_same_names(tmp_path):
    place = tmp_path / "net.svg"
    assert main(["experiments.tiny", "--device", "cpu", "--depth", "1", "--graph", str(place)]) == 0
    texts = [each.text for each in ET.parse(place).iter("{http://www.w3.org/2000/svg}text")]
    assert "0 Conv2d" in texts
    assert any("(1, 32, 8, 8)" in text for text in texts)


def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for place, complaint in {
        tmp_path / "net.svg": r"the program dot is missing; install Graphviz \(apt-get install graphviz",
        tmp_path / "nowhere" / "net.gv": r"net\.gv: it cannot be written: No such file or directory",
        "net.jpeg": r"--graph: should end in one of \.svg, \.pdf, \.png, \.gv, \.dot",
    }.items():
        with pytest.raises(UserError, match=complaint):
            main(["experiments.tiny", "--device", "cpu", "--graph", str(place)])
