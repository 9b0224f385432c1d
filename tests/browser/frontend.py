"""The host's own editor in a browser, as an artist uses it: load, queue, save, bypass."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACK = "text-retouch"
QUEUE = "[data-testid=queue-button]"
SIZE = {"width": 1900, "height": 1100}
BYPASS = 4
"""LGraphEventMode.BYPASS."""

# What the host says whether or not our pack is there: pattern -> why it is nothing of ours.
NOT_OURS = {
    r"/user\.css|/userdata|404 \(Not Found\)$": "files that a fresh user has not written yet",
    r"graph accessed before initialization": "the host's own start",
    r"huggingface\.co": "the host asks for the size of a model to download, which its own policy refuses",
}

# Only while a node is bypassed: the host refuses a prompt whose required input is open.
REFUSAL = re.compile(
    r"400 \(Bad Request\)|prompt_outputs_failed|Prompt outputs failed|PromptExecutionError|Required input"
)

WATCH = """() => {
  window.retouchEnds = {};
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(kind, event => { window.retouchEnds[event.detail.prompt_id] = [kind, event.detail]; });
}"""

SCHEMAS = "() => fetch('/object_info').then(answer => answer.json())"


@dataclass
class Outcome:
    """What one press of the button led to: success, error, or refused where the prompt never ran."""

    status: str
    prompt: dict[str, Any]
    detail: dict[str, Any]


class Frontend:
    """One page. `errors` holds what the console said that NOT_OURS does not name."""

    def __init__(self, server: Any, browser: Any, renderer: str) -> None:
        self.server, self.errors, self.may_refuse = server, [], False
        server.request(
            "/settings",
            {
                "Comfy.TutorialCompleted": True,
                "Comfy.VueNodes.Enabled": renderer == "nodes2",
                "Comfy.Workflow.Persist": False,
            },
        )
        self.context = browser.new_context(viewport=SIZE)
        self.page = self.context.new_page()
        self.page.on("console", lambda said: said.type == "error" and self._hear(said))
        self.page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.open()

    def _hear(self, said: Any) -> None:
        self._note(f"{said.text} {said.location.get('url', '')}".strip())

    def _note(self, text: str) -> None:
        if any(re.search(pattern, text) for pattern in NOT_OURS):
            return
        if self.may_refuse and REFUSAL.search(text):
            return
        self.errors.append(text)

    def open(self) -> None:
        """Go to the editor and wait until its graph is there."""
        self.page.goto(self.server.url)
        self.page.wait_for_function(
            "window.app?.vueAppReady && window.app.graph && app.graph._nodes.length >= 0"
        )
        self.page.wait_for_selector(QUEUE)
        self.page.wait_for_timeout(500)
        self.page.evaluate(WATCH)

    def close(self) -> None:
        """End the profile."""
        self.context.close()

    # -------- graphs
    def load(self, workflow: dict[str, Any], name: str = "retouch") -> None:
        """Open a workflow in a tab of its own."""
        self.page.evaluate("([data, name]) => app.loadGraphData(data, true, true, name)", [workflow, name])
        self.page.wait_for_timeout(400)

    def template(self, name: str) -> dict[str, Any]:
        """Load one of our templates from where the template browser takes it."""
        workflow = json.loads(self.server.request(f"/api/workflow_templates/{PACK}/{name}.json"))
        self.load(workflow, name)
        return dict(workflow)

    def from_template_dialog(self, name: str) -> None:
        """Open a template by mouse alone: Templates, our pack among the extensions, its card."""
        self.page.get_by_role("button", name="Templates").click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(PACK, exact=True).click()
        dialog.get_by_test_id(f"template-workflow-{name}").click()
        dialog.wait_for(state="hidden")
        self.page.wait_for_timeout(400)

    def from_node_library(self, title: str) -> int:
        """Put a node or a blueprint onto the canvas by mouse alone; its id."""
        library = self.page.get_by_role("button", name="Node Library")
        library.click()
        before = set(self.page.evaluate("() => app.graph._nodes.map(node => node.id)"))
        self.page.get_by_placeholder("Search").first.fill(title)
        self.page.get_by_text(title, exact=True).first.click()
        free = (SIZE["width"] // 2, SIZE["height"] - 150)
        self.page.mouse.move(*free)
        self.page.mouse.click(*free)
        self.page.wait_for_function("n => app.graph._nodes.length > n", arg=len(before))
        library.click()
        (new,) = set(self.page.evaluate("() => app.graph._nodes.map(node => node.id)")) - before
        return int(new)

    def help_page(self, node: int) -> Any:
        """Select a node and press the i of its toolbox; where the help page is shown."""
        self.page.evaluate("id => app.canvas.selectNode(app.graph.getNodeById(id))", node)
        self.page.get_by_test_id("info-button").click()
        shown = self.page.locator(".node-help-content")
        shown.wait_for()
        return shown

    def workflow(self) -> dict[str, Any]:
        """What would be saved now."""
        return dict(
            self.page.evaluate("() => JSON.parse(JSON.stringify((app.rootGraph ?? app.graph).serialize()))")
        )

    def prompt(self) -> dict[str, Any]:
        """What would be queued now: class and inputs of every node."""
        nodes = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return {
            key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in nodes.items()
        }

    def hasten(self, steps: int = 3) -> None:
        """Let every sampler of the outer graph take few steps, where only the way through the graph is looked at."""
        self.page.evaluate(
            """steps => app.graph._nodes.flatMap(node => node.widgets ?? [])
              .filter(widget => widget.name === 'steps').forEach(widget => { widget.value = steps; })""",
            steps,
        )

    def bypass(self, node: int, on: bool = True) -> None:
        """Switch the bypass of one node of the outer graph."""
        self.page.evaluate(
            "([id, mode]) => { app.graph.getNodeById(id).mode = mode; app.graph.setDirtyCanvas(true, true); }",
            [node, BYPASS if on else 0],
        )
        self.page.wait_for_timeout(50)

    def into_subgraph(self, node: int) -> str:
        """Put one node into a subgraph of its own, as the selection toolbox does; the id of what stands there now."""
        return str(
            self.page.evaluate(
                "id => app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])).node.id", node
            )
        )

    def saved(self, name: str) -> Path:
        """Press Ctrl+S, give the name that is asked for, and wait for the file."""
        file = self.server.folder / "user" / "default" / "workflows" / f"{name}.json"
        self.page.locator("#graph-canvas").focus()
        self.page.keyboard.press("Control+s")
        field = self.page.locator("[role=dialog] input").last
        field.wait_for()
        field.fill(name)
        self.page.keyboard.press("Enter")
        for _ in range(100):
            if file.is_file():
                break
            self.page.wait_for_timeout(100)
        return Path(file)

    # -------- running
    def queue(self, timeout: float = 240.0) -> Outcome:
        """Press the visible button and wait until that run has ended."""
        with self.page.expect_response(
            lambda answer: answer.request.method == "POST" and answer.url.endswith("/prompt")
        ) as sent:
            self.page.click(QUEUE)
        prompt = sent.value.request.post_data_json["prompt"]
        answer = sent.value.json()
        if sent.value.status != 200:
            self.page.wait_for_timeout(300)
            self.page.keyboard.press("Escape")
            return Outcome("refused", prompt, answer)
        run = answer["prompt_id"]
        self.page.wait_for_function("id => window.retouchEnds[id]", arg=run, timeout=timeout * 1000)
        kind, detail = self.page.evaluate("id => window.retouchEnds[id]", run)
        self.page.wait_for_timeout(300)
        if kind != "execution_success":
            self.page.keyboard.press("Escape")
            return Outcome("error", prompt, detail)
        for _ in range(100):
            # The history is written just after the last message.
            if run in (history := self.server.history(run)):
                return Outcome("success", prompt, history[run]["outputs"])
            self.page.wait_for_timeout(50)
        raise AssertionError(f"run {run} ended but has no history")
