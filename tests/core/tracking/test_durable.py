"""MLflow is sent only what a power failure cannot take from the journal."""

from core.common import files
from core.record.journal import Journal
from core.tracking import follower
from core.tracking.cursor import Record, save


class Known:
    """A tracker that has every run."""

    def open(self, folder, event, record, seek):
        return record

    let_go = staticmethod(lambda record: record)


def test_entries_are_on_disk_before_they_are_sent(home, monkeypatch):
    log = Journal(home / "mlruns" / "runs" / "tiny-20260101-000000-abcd")
    save(log.folder, Record("store", "1", "run"))
    log.write("run", id=log.run_id, experiment="tiny")
    log.metrics(1, {"loss": 1.0})
    durable, sent = [0], []

    def synced(path):
        if path.name == "journal.jsonl":
            durable.append(path.stat().st_size)
        files.sync(path)

    def send(client, folder, record, batch):
        assert batch.end <= durable[-1]
        sent.append(batch.end)
        return record.at(batch.file, batch.end)

    monkeypatch.setattr(follower, "sync", synced)
    monkeypatch.setattr(follower, "send", send)
    mirror = follower.Follower(log.folder, "mlflow", "store")
    assert mirror.hold()
    while mirror.advance(Known()):
        pass
    log.metrics(2, {"loss": 0.5})
    assert mirror.advance(Known())
    assert sent[-1] == (log.folder / "journal.jsonl").stat().st_size
    mirror.let_go(Known())


def test_a_journal_that_is_shorter_than_what_was_sent_is_sent_from_the_beginning(home):
    log = Journal(home / "mlruns" / "runs" / "tiny-20260101-000000-abcd")
    log.write("run", id=log.run_id, experiment="tiny")
    save(log.folder, Record("store", "1", "run", journal=10_000))
    mirror = follower.Follower(log.folder, "mlflow", "store")
    assert mirror.hold()
    mirror.advance(Known())
    assert mirror.record.journal == 0
    mirror.let_go(Known())
