"""Page: the controls and pictures in the browser, by Gradio, which is imported here alone."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from vgp_lightning.agent.mazes import need_maze
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.play.drawing import locate
from vgp_lightning.play.session import Session
from vgp_lightning.play.view import View, list_names, show_message, view
from vgp_lightning.play.visitors import Visit, Visitors

_MOST_PACE = 20
# A click tells where in the picture it was, as shares of its width and height.
_CLICK = """
element.addEventListener('click', (event) => {
  const picture = element.querySelector('svg');
  if (!picture) return;
  const box = picture.getBoundingClientRect();
  trigger('click', {across: (event.clientX - box.left) / box.width, down: (event.clientY - box.top) / box.height});
});
"""
_LEGEND = (
    '<div class="legend"><span class="plan-key">the plan</span><span class="many-key">other candidates</span>'
    '<span class="past-key">what happened</span>'
)


@dataclass(frozen=True)
class _Slider:
    """A setting of planning that the page lets change.

    Attributes:
        name: Of the setting.
        label: Above the slider.
        info: Below the label.
        low: Its smallest value.
        high: Its largest.
        step: From one value to the next.
    """

    name: str
    label: str
    info: str
    low: float
    high: float
    step: float


def load_gradio() -> Any:
    """Return the module of Gradio.

    Raises:
        ValueError: If it is not installed, with the command that installs it.
    """
    try:
        return import_module("gradio")
    except ImportError as error:
        raise ValueError('vgp play needs gradio, which is not installed: pip install "vgp_lightning[web]"') from error


def make_page(visitors: Visitors, first: Visit) -> Any:
    """Return the page as Gradio's Blocks.

    Args:
        visitors: Those who have the page open.
        first: A visit as each begins, from which the controls take their first values.
    """
    gr, session = load_gradio(), first.session
    handlers = _Handlers(gr, visitors)
    maze, names = session.maze, list_names(session.deployed)
    with gr.Blocks(analytics_enabled=False, title=f"{session.deployed.env_id} - vgp play") as page:
        gr.HTML(_head(session), elem_classes="vgp")
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                frame = gr.HTML(elem_id="frame", elem_classes="vgp")
                status = gr.HTML(elem_id="status", elem_classes="vgp")
                message = gr.HTML(elem_id="message", elem_classes="vgp")
                with gr.Row():
                    step = gr.Button("Step", elem_id="step", min_width=90)
                    run = gr.Button("Run", elem_id="run", variant="primary", min_width=90)
                    pause = gr.Button("Pause", elem_id="pause", interactive=False, min_width=90)
                with gr.Row(elem_classes="vgp-seed"):
                    seed = gr.Number(session.seed, label="Seed", precision=0, elem_id="seed", min_width=150)
                    reset = gr.Button("Reset", elem_id="reset", min_width=90)
            with gr.Column(scale=5, min_width=320):
                gr.HTML(_legend(maze is not None), elem_classes="vgp")
                classes = "vgp aim" if maze is not None else "vgp panels"
                plans = gr.HTML(
                    elem_id="plans", elem_classes=classes.split(), js_on_load=None if maze is None else _CLICK
                )
                if maze is None:
                    dimensions = gr.Dropdown(
                        names,
                        value=[names[i] for i in first.dimensions],
                        multiselect=True,
                        label="Dimensions",
                        elem_id="dimensions",
                    )
        values = gr.HTML(elem_id="values", elem_classes=["vgp", "panels"])
        gr.HTML(f"<h2>How it plans</h2><p>{_NOTE}</p>", elem_classes="vgp")
        with gr.Row():
            sliders = {
                slider.name: gr.Slider(
                    slider.low,
                    slider.high,
                    session.resolved[slider.name],  # type: ignore[literal-required]
                    step=slider.step,
                    label=slider.label,
                    info=slider.info,
                    elem_id=slider.name,
                    min_width=260,
                    buttons=[],
                )
                for slider in _sliders(session)
            }
            pace = gr.Slider(
                *(1, _MOST_PACE, first.pace),
                step=1,
                label="Steps per picture",
                info="while it runs; more of them run faster",
                elem_id="pace",
                min_width=260,
                buttons=[],
            )
        outputs = [frame, plans, values, status, message, step, run, pause]

        def listen(event: Callable[..., Any], handler: Callable[..., Any], inputs: Any = None, **options: Any) -> None:
            quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
            event(handler, inputs, outputs, **quiet | options)

        listen(page.load, handlers.make(lambda visit: None))
        listen(step.click, handlers.make(_step))
        listen(run.click, handlers.run)
        # Not behind the steps in the queue.
        listen(pause.click, handlers.make(_pause), queue=False)
        listen(reset.click, handlers.make(_reset), [seed])
        listen(seed.submit, handlers.make(_reset), [seed])
        latest = {"trigger_mode": "always_last"}  # while a slider is drawn, its last place counts
        for name, slider in sliders.items():
            listen(slider.change, handlers.make(_changes(name)), [slider], **latest)
        listen(pace.change, handlers.make(_set_pace), [pace], **latest)
        if maze is None:
            listen(dimensions.change, handlers.make(_shows(names)), [dimensions], **latest)
        else:
            with gr.Group():
                reach = gr.Checkbox(session.reach_goal, label="Plans end at the goal", elem_id="reach_goal")
                follow = gr.Checkbox(
                    session.follow_states,
                    label="A position controller follows the plan's states",
                    info="in place of executing the plan's own actions",
                    interactive=maze.state is not None,
                    elem_id="follow_states",
                )
            for box in (reach, follow):
                listen(box.change, handlers.make(_steer), [reach, follow], **latest)
            listen(plans.click, handlers.click)
        page.unload(handlers.leave)
    return page


def style(gr: Any) -> dict[str, Any]:
    """Return theme and style sheet, which load nothing from elsewhere."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "theme": gr.themes.Default(primary_hue="blue", **fonts).set(
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",  # readable
        ),
        "css": Path(__file__).with_name("page.css").read_text(),
    }


# ---------------------------------------------------------------- what the page says

_NOTE = (
    "A change makes a new plan for the present step at once, with the same noise as before: what differs is the "
    "setting's doing. It holds until the page is closed."
)


def _head(session: Session) -> str:
    env_id, folder = escape(session.deployed.env_id), escape(str(session.deployed.folder))
    return f"<h1>{env_id}</h1><p>The planner in <code>{folder}</code>, live.</p>"


def _legend(maze: bool) -> str:
    if not maze:
        earlier = '<span class="plan-key dashed">an earlier plan</span>'
        return f"{_LEGEND}{earlier}<span>over the steps of the episode</span></div>"
    click = "Click a free place: the goal moves there, in the environment too, and plans go there."
    return f'{_LEGEND}<span class="past-key star">the goal</span></div><p>{click}</p>'


def _sliders(session: Session) -> list[_Slider]:
    """Return the settings to show, with ranges around those that hold."""
    pipeline, resolved = session.deployed.pipeline, session.resolved
    levels, horizon = pipeline.scheduler.config["num_train_timesteps"], resolved["planning_horizon"]
    ranked = pipeline.value_function is not None or resolved["rank_by"] == "critic"
    choice = "plans to choose from" if ranked else "plans; nothing ranks them, so the first is taken"
    sliders = [
        _Slider("batch_size", "Candidates", choice, 1, max(64, resolved["batch_size"]), 1),
        _Slider("num_inference_steps", "Denoising steps", "more are slower", 1, levels, 1),
        _Slider("temperature", "Temperature", "factor on the noise", 0, max(2.0, resolved["temperature"]), 0.05),
        _Slider("replan_every", "Replanning interval", "steps of a plan; 0: one plan an episode", 0, horizon, 1),
    ]
    if pipeline.value_function is None:
        return sliders
    widest = max(1.0, 10 * abs(resolved["scale"]))
    scale = _Slider("scale", "Guidance scale", "how far a guide step climbs the value", 0, widest, widest / 100)
    most = max(5, resolved["n_guide_steps"])
    guide = _Slider("n_guide_steps", "Guide steps", "per denoising step; 0: no guidance", 0, most, 1)
    return [scale, guide, *sliders]


# ---------------------------------------------------------------- what the controls do


def _step(visit: Visit) -> None:
    visit.running = False
    visit.session.step()


def _pause(visit: Visit) -> None:
    visit.running = False


def _reset(visit: Visit, seed: int | None) -> None:
    if seed is None:
        raise ValueError("the seed is empty: a whole number from 0 on is needed")
    visit.session.reset(seed)


def _set_pace(visit: Visit, pace: int) -> None:
    visit.pace = int(pace)


def _steer(visit: Visit, reach_goal: bool, follow_states: bool) -> None:
    visit.session.steer(reach_goal, follow_states)


def _changes(name: str) -> Callable[[Visit, float], None]:
    def change(visit: Visit, value: float) -> None:
        settings: Settings = {name: value}  # type: ignore[misc]
        visit.session.change(**settings)

    return change


def _shows(names: list[str]) -> Callable[[Visit, list[str]], None]:
    def show(visit: Visit, chosen: list[str]) -> None:
        visit.dimensions = [names.index(name) for name in chosen]

    return show


class _Handlers:
    """Gradio's handlers: each does something for the visitor who calls, and returns what the page then shows."""

    def __init__(self, gr: Any, visitors: Visitors) -> None:
        self._gr = gr
        self._visitors = visitors
        for handler in (self.run, self.click, self.leave):
            handler.__annotations__["request"] = gr.Request  # by these types Gradio knows what to give
        self.click.__annotations__["event"] = gr.EventData

    def make(self, act: Callable[..., None]) -> Callable[..., list[Any]]:
        """Return the handler that does something with a visit and the values of the inputs."""

        def handler(request: Any, *values: Any) -> list[Any]:
            return self._show(request.session_hash, lambda visit: act(visit, *values))[1]

        handler.__annotations__["request"] = self._gr.Request
        return handler

    def run(self, request: Any) -> Iterator[list[Any]]:
        """Play on until the episode ends, somebody pauses it or the visitor leaves."""
        visitor, begun = request.session_hash, False

        def play_on(visit: Visit) -> None:
            if visit.running or not begun:
                visit.running = True
                for _ in range(visit.pace):
                    if visit.session.ended is None:
                        visit.session.step()
                visit.running = visit.session.ended is None

        while not begun or self._visitors.has(visitor):
            running, shown = self._show(visitor, play_on)
            begun = True
            yield shown
            if not running:
                return

    def click(self, request: Any, event: Any) -> list[Any]:
        """Move the goal of the maze to where the picture was clicked."""

        def aim(visit: Visit) -> None:
            maze = need_maze(visit.session.maze, "a goal", visit.session.deployed.env_id)
            visit.session.aim(*locate(maze, float(event.across), float(event.down)))

        return self._show(request.session_hash, aim)[1]

    def leave(self, request: Any) -> None:
        """Close the session of a visitor who has left."""
        self._visitors.leave(request.session_hash)

    def _show(self, visitor: str, act: Callable[[Visit], None]) -> tuple[bool, list[Any]]:
        """Do something for a visitor. What goes wrong is a message on the page; the server goes on.

        Returns:
            Whether the episode goes on by itself, and what the page shows: the outputs.
        """

        def use(visit: Visit) -> tuple[View, str]:
            try:
                act(visit)
                text = ""
            except Exception as error:  # environments and rewards raise any type
                visit.running = False
                text = _explain(error)
            return view(visit), text

        try:
            shown, text = self._visitors.call(visitor, use)
        except Exception as error:
            text = _explain(error)
            skip = self._gr.skip
            return False, [*(skip() for _ in range(4)), show_message(text), *(skip() for _ in range(3))]
        buttons = [not (shown.running or shown.ended), not (shown.running or shown.ended), shown.running]
        return shown.running, [
            *(shown.frame, shown.plans, shown.values, shown.status, show_message(text)),
            *(self._gr.update(interactive=on) for on in buttons),
        ]


def _explain(error: Exception) -> str:
    """Return the message of an error; one that is not the visitor's is printed with its traceback too."""
    if isinstance(error, ValueError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error} (the terminal of vgp play has more)"
