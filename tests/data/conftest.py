import pytest


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test asks the real server; the local one is asked without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LABBOOK_CIFAR_URL", "http://127.0.0.1:9/none")
    monkeypatch.setenv("LABBOOK_MNIST_URL", "http://127.0.0.1:9/none")
