"""predict.py: the script beside an exported model, which labels images with the engine, numpy and Pillow alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from core.common import html
from core.common.errors import UserError
from core.export import onnx_engine, openvino_engine, torch_engine
from core.export.formats import Format

NAME = "predict.py"
_LOADING = {
    "onnxruntime": f"""\
model = Path(__file__).with_name("{onnx_engine.FILE}")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["labbook"])""",
    "openvino": f"""\
model = openvino.Core().read_model(Path(__file__).with_name("{openvino_engine.FILE}"))
facts = json.loads(model.get_rt_info(["labbook"]).astype(str))
hint = {{"INFERENCE_PRECISION_HINT": "bf16" if facts["precision"] == "bf16" else "f32"}}
network = openvino.Core().compile_model(model, "CPU", hint)""",
    "torch": f"""\
files = {{"{torch_engine.FACTS}": ""}}
network = torch.export.load(Path(__file__).with_name("{torch_engine.PROGRAM}"), extra_files=files).module()
facts = json.loads(files["{torch_engine.FACTS}"])""",
}
_RUNNING = {
    "onnxruntime": f'return session.run(None, {{"{onnx_engine.INPUT}": images}})[0]',
    "openvino": "return network(images)[0]",
    "torch": "with torch.inference_mode():\n        return network(torch.from_numpy(images.copy())).numpy()",
}
_ASK = """
import json, sys
sys.path.insert(0, ".")  # PYTHONSAFEPATH leaves it out
import predict
print(json.dumps([predict.predict(predict.read(path)[None])[0].tolist() for path in sys.argv[1:]]))
"""


def write(folder: Path, made: Format, multi_label: bool) -> None:
    """Write the script for the model in a folder. Raises OSError."""
    package = made.package
    text = html.render_text(
        "export/predict.py.jinja",
        package=package,
        loading=_LOADING[package],
        running=_RUNNING[package],
        multi_label=multi_label,
    )
    (folder / NAME).write_text(text)


def answers(folder: Path, files: list[Path]) -> np.ndarray:
    """The probabilities, float [N, classes], that the script in a folder gives for image files, in a process of its
    own. Raises UserError with the last line of its message if it fails."""
    ask = [sys.executable, "-c", _ASK, *map(str, (file.resolve() for file in files))]
    done = subprocess.run(ask, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        raise UserError([f"{folder.name}: the script {NAME} beside the model fails: {said}"])
    return np.array(json.loads(done.stdout.strip().rpartition("\n")[2]))
