"""What a browser may do with the page, and what of Gradio nobody reaches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from octuor.ui.security import marked, policy
from ui.front import Fronted


def directives(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition(" ") for part in text.split("; "))}


def test_only_marked_scripts_run(tmp_path: Path) -> None:
    answer = Fronted(tmp_path).get("/", headers={"accept-encoding": "gzip"})
    found = directives(answer.headers["content-security-policy"])
    [nonce] = re.findall(r"'nonce-([\w-]{24})'", found["script-src"])
    assert answer.text.count(f'<script nonce="{nonce}"') == answer.text.count("<script") == 3  # ours too
    assert "unsafe" not in found["script-src"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert nonce not in Fronted(tmp_path).get("/").text  # each time another one


def test_nothing_is_fetched_from_elsewhere() -> None:
    found = directives(policy("n"))
    assert found["default-src"] == "'none'"
    for name, sources in found.items():
        assert set(sources.split()) <= {"'self'", "'none'", "'nonce-n'", "data:", "blob:", "'unsafe-inline'"}, name
        assert "'unsafe-inline'" not in sources or name == "style-src"
    assert found["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("path", ["/", "/assets/a.js", "/nothing/../assets/b.js", "/gradio_api/info", "/ui/nothing"])
def test_every_answer_of_the_page_has_the_headers(tmp_path: Path, path: str) -> None:
    headers = Fronted(tmp_path).get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-dns-prefetch-control"] == "off"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_the_page_does_not_introduce_itself_as_somebody_else() -> None:
    theirs = b'<meta property="og:title" content="Gradio" />\n<link rel="manifest" href="/manifest.json" />'
    html = marked(b"<head>" + theirs + b'<meta name="x"></head><body>og:title</body>', "")
    assert html == b'<head><meta name="x"></head><body>og:title</body>'


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/file=https://example.org/"),
        ("GET", "/gradio_api/proxy=https://example.hf.space/"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/custom_component/a/b/c/d"),
        ("GET", "/gradio_api/token"),
        ("GET", "/robots.txt"),
        ("GET", "/favicon.ico"),
        ("GET", "/manifest.json"),
        ("POST", "/gradio_api/call/answer"),
        ("POST", "/gradio_api/api/answer"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/stream/a"),
        ("PUT", "/gradio_api/queue/join"),
        ("POST", "/config"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(tmp_path: Path, method: str, path: str) -> None:
    front = Fronted(tmp_path)
    assert front.request(method, path).status_code == 404
    assert front.asked == []


def test_files_are_only_those_of_the_page(tmp_path: Path) -> None:
    files, outside = tmp_path / "files", tmp_path / "secret"
    files.mkdir()
    outside.write_text("secret")
    (files / "export.md").write_text("hello")
    (files / "link").symlink_to(outside)
    (files / "folder").mkdir()
    front = Fronted(files)

    def file(path: object) -> int:
        return front.get(f"/gradio_api/file={path}").status_code

    assert file(files / "export.md") == 200
    for path in (
        outside, files / "link", files / "folder", files, f"{files}/../secret", f"{files}/%2e%2e/secret", "/etc/passwd",
        "etc/passwd", "../secret", f"{files}/none", f"{files}/export.md%00", "", "~/.bashrc", Path(__file__),
    ):  # fmt: skip
        assert file(path) == 404, path
    assert len(front.asked) == 1


# ---- pages of others -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "https://chat.example.org", "x-forwarded-host": "chat.example.org"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:9999"}, 403),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "https://example.org"}, 403),
        ({"origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/gradio_api/queue/join"), ("GET", "/config")])
def test_pages_of_other_sites_cannot_use_it(
    tmp_path: Path, headers: dict[str, str], status: int, method: str, path: str
) -> None:
    front = Fronted(tmp_path)
    assert front.request(method, path, headers=headers).status_code == status
    assert len(front.asked) == (status == 200)


def test_links_from_other_sites_lead_to_the_page(tmp_path: Path) -> None:
    assert Fronted(tmp_path).get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_strangers_names_for_this_machine_are_refused(tmp_path: Path) -> None:
    """DNS rebinding, while there are no keys."""
    from octuor.accounts import open_accounts

    with open_accounts(tmp_path / "home") as accounts:
        front = Fronted(tmp_path, accounts)
        assert front.get("/", base="http://evil.example").status_code == 403
        assert front.get("/", base="http://127.0.0.1").status_code == 200
