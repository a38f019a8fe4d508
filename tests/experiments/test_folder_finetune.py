"""Fine-tuning on images of one's own, from ten on."""

import pytest
from PIL import Image


@pytest.mark.slow
def test_ten_images_of_two_classes_are_enough_for_folder_finetune(forge, tmp_path):
    for number in range(10):
        path = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 60), (25 * number, 0, 200 * (number % 2))).save(path)
    words = ("--root", str(tmp_path / "images"), "--model.weights", "none", "--data.size", "32", "--mlflow", "false")
    status, text = forge.run("experiments.folder_finetune", "--variant", "few", "--epochs", "2", *words)
    assert status == 0, text
    assert "computed the features of 8 images" in text
    status, text = forge.run("experiments.folder_finetune", *words)
    assert status == 0, text
    assert "6 training and 2 validation images in batches of 6 (declared: 32)" in text
