"""Uploads that mean harm: each becomes a failed operation, and nothing else happens."""

import io
import os
import pickle
import zipfile

import httpx
import pytest

from rightrank.service.client.http import Problem


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def code(marker):
    """A pickle that runs a command when it is loaded."""
    return pickle.dumps(Bomb(marker))


def module(marker):
    """The same in the archive that `torch.save` writes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("net/data.pkl", code(marker))
        archive.writestr("net/version", "3\n")
    return out.getvalue()


def program(marker):
    """The same in the archive that `torch.export.save` writes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/archive_version", "0")
        archive.writestr("net/models/model.json", "{}")
        archive.writestr("net/data/weights/model.pt", code(marker))
    return out.getvalue()


def inflated(marker):
    """A hundred megabytes of zeros in a hundred kilobytes."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("net/models/model.json", "w") as entry,
    ):
        for _ in range(100):
            entry.write(bytes(1 << 20))
    return out.getvalue()


def escaping(marker):
    """An entry whose name leads out of the folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"../../../../../../..{marker}", b"here")
    return out.getvalue()


def cut_off(marker):
    return program(marker)[:-30]


@pytest.mark.parametrize("make", [code, module, program, inflated, escaping, cut_off])
def test_a_hostile_upload_is_a_failed_operation_and_no_more(service, tmp_path, make):
    marker = tmp_path / "executed"
    upload = tmp_path / "net.pt2"
    upload.write_bytes(make(marker))
    with pytest.raises(Problem) as caught:
        service.client.wait(service.client.push(upload, name="hostile")["operation"])
    assert caught.value.kind.startswith("checkpoint-")
    assert 400 <= caught.value.status < 500
    assert caught.value.document["title"]
    assert caught.value.document["detail"]
    assert not marker.exists()
    assert [model["id"] for model in service.client.models()] == [service.client.show("net")["id"]]


def test_an_empty_upload_is_refused_at_once(service, tmp_path):
    (tmp_path / "net.pt2").touch()
    with pytest.raises(Problem, match="is empty"):
        service.client.push(tmp_path / "net.pt2")


def test_the_service_serves_on(service):
    with httpx.Client(base_url=service.url, timeout=120) as http:
        assert http.get("/models/net?budget=0.3", headers={"Prefer": "wait=100"}).status_code == 200
        assert http.get("/models/hostile").status_code == 404
