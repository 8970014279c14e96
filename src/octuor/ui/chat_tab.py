"""The chat's components and where they stand. What they do is in `chat_events`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr

from octuor.ui.backend import RANGES, ChatSettings
from octuor.ui.chat_view import LATEX
from octuor.ui.settings import MAX_SYSTEM, UNKNOWN_CONTEXT


@dataclass(frozen=True)
class ChatTab:
    """All components, by what they are for.

    current   the conversation's id; "" where it has not begun. In the browser: it outlives the server's process
    picked    the id of a conversation that was clicked on; page.js writes it
    cards     the models that may be asked, as they were last told
    settings  by ChatSettings' names
    """

    current: gr.Textbox
    picked: gr.Textbox
    cards: gr.State
    new: gr.Button
    search: gr.Textbox
    conversations: gr.Markdown
    imported: gr.UploadButton
    title: gr.Textbox
    model: gr.Dropdown
    export_markdown: gr.Button
    export_json: gr.Button
    delete: gr.Button
    delete_row: gr.Group
    delete_sure: gr.Button
    delete_keep: gr.Button
    chat: gr.Chatbot
    status: gr.Markdown
    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    retry: gr.Button
    undo: gr.Button
    go_on: gr.Button
    settings: Mapping[str, gr.Textbox | gr.Slider | gr.Number]
    reset: gr.Button


def build_chat_tab(words: gr.I18n) -> ChatTab:
    """Make the components, inside of a tab that is open."""
    current = gr.Textbox(visible="hidden", elem_id="current", label="current")
    picked = gr.Textbox(visible="hidden", elem_id="picked", label="picked")
    cards = gr.State(())
    with gr.Row(elem_id="workspace"):
        with gr.Column(elem_id="sidebar", min_width=0):
            new = gr.Button(words("new_conversation"), elem_id="new-conversation", size="sm")
            search = gr.Textbox(
                placeholder=words("search"), label=words("search"), show_label=False, elem_id="search", container=False
            )
            conversations = gr.Markdown("", elem_id="conversations", container=False)
            imported = gr.UploadButton(str(words("import")), elem_id="import", file_types=[".json"], size="sm")
        with gr.Column(elem_id="main", min_width=0):
            with gr.Row(elem_id="head"):
                gr.Button(words("show_conversations"), elem_id="toggle-conversations", elem_classes="icon")
                title = gr.Textbox(
                    label=words("name"), show_label=False, elem_id="rename", container=False, max_length=120
                )
                model = gr.Dropdown(
                    [], label=words("model"), show_label=False, elem_id="model", container=False, filterable=False
                )
                gr.Button(words("more"), elem_id="toggle-more", elem_classes="icon")
                gr.Button(words("settings"), elem_id="toggle-settings", elem_classes="icon")
            with gr.Column(elem_id="more", min_width=0):
                export_markdown = gr.Button(words("export_markdown"), elem_id="export-markdown", size="sm")
                export_json = gr.Button(words("export_json"), elem_id="export-json", size="sm")
                delete = gr.Button(words("delete"), elem_id="delete", size="sm")
                with gr.Group(elem_id="delete-row", visible=False) as delete_row:
                    gr.Markdown(words("delete_sure"))
                    delete_sure = gr.Button(words("delete"), elem_id="delete-sure", size="sm", variant="stop")
                    delete_keep = gr.Button(words("keep"), elem_id="delete-keep", size="sm")
            chat = gr.Chatbot(
                elem_id="chat",
                show_label=False,
                container=False,
                height="100%",
                layout="bubble",
                editable="all",
                buttons=["copy"],
                latex_delimiters=[
                    {"left": latex.left, "right": latex.right, "display": latex.is_block} for latex in LATEX
                ],
                group_consecutive_messages=False,
                line_breaks=True,
            )
            with gr.Row(elem_id="foot"):
                status = gr.Markdown("", elem_id="status-line", container=False)
                with gr.Row(elem_id="actions"):
                    retry = gr.Button(words("retry"), elem_id="retry", size="sm")
                    undo = gr.Button(words("undo"), elem_id="undo", size="sm")
                    go_on = gr.Button(words("continue"), elem_id="continue", size="sm")
            with gr.Row(elem_id="composer"):
                message = gr.Textbox(
                    placeholder=words("message"),
                    label=words("message"),
                    show_label=False,
                    elem_id="message",
                    container=False,
                    lines=1,
                    max_lines=10,
                    autofocus=True,
                )
                send = gr.Button(words("send"), elem_id="send", variant="primary")
                stop = gr.Button(words("stop"), elem_id="stop")  # style.css shows one of the two
            gr.Markdown(words("keys"), elem_id="keys")
        with gr.Column(elem_id="settings", min_width=0):
            settings, reset = _settings_panel(words)
    return ChatTab(
        current=current,
        picked=picked,
        cards=cards,
        new=new,
        search=search,
        conversations=conversations,
        imported=imported,
        title=title,
        model=model,
        export_markdown=export_markdown,
        export_json=export_json,
        delete=delete,
        delete_row=delete_row,
        delete_sure=delete_sure,
        delete_keep=delete_keep,
        chat=chat,
        status=status,
        message=message,
        send=send,
        stop=stop,
        retry=retry,
        undo=undo,
        go_on=go_on,
        settings=settings,
        reset=reset,
    )


def _settings_panel(words: gr.I18n) -> tuple[dict[str, gr.Textbox | gr.Slider | gr.Number], gr.Button]:
    defaults = ChatSettings()
    gr.Markdown(words("settings"), elem_id="settings-title")
    boxes: dict[str, gr.Textbox | gr.Slider | gr.Number] = {
        "system": gr.Textbox(
            defaults.system,
            label=words("system"),
            info=words("system_info"),
            elem_id="system",
            lines=3,
            max_lines=12,
            max_length=MAX_SYSTEM,
        )
    }
    for name in ("temperature", "max_new_tokens", "top_p", "top_k", "repetition_penalty"):
        limits = RANGES[name]
        boxes[name] = gr.Slider(
            limits.least,
            UNKNOWN_CONTEXT if name == "max_new_tokens" else limits.most,
            step=limits.step,
            value=getattr(defaults, name),
            label=words(name),
            info=words(f"{name}_info"),
            elem_id=name.replace("_", "-"),
            buttons=[],
        )
    boxes["seed"] = gr.Number(
        None, label=words("seed"), info=words("seed_info"), elem_id="seed", precision=0, minimum=0
    )
    return boxes, gr.Button(words("reset_settings"), elem_id="reset-settings", size="sm")
