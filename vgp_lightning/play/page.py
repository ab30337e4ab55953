"""Page: the controls and pictures in the browser, by Gradio, which is imported here alone."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from vgp_lightning.agent.mazes import Maze
from vgp_lightning.play.handlers import (
    Handlers,
    aim,
    changing,
    pause,
    reset,
    set_pace,
    showing,
    steer,
    take_step,
)
from vgp_lightning.play.session import Session
from vgp_lightning.play.sliders import list_sliders
from vgp_lightning.play.view import list_names
from vgp_lightning.play.visitors import Visit, Visitors
from vgp_lightning.report.markup import Markup, join, tag

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
    handlers = Handlers(gr, visitors)
    maze, names = session.maze, list_names(session.deployed)
    with gr.Blocks(analytics_enabled=False, title=f"{session.deployed.env_id} - vgp play") as page:
        gr.HTML(_head(session), elem_classes="vgp")
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                frame = gr.HTML(elem_id="frame", elem_classes="vgp")
                status = gr.HTML(elem_id="status", elem_classes="vgp")
                message = gr.HTML(elem_id="message", elem_classes="vgp")
                with gr.Row():
                    step_button = gr.Button("Step", elem_id="step", min_width=90)
                    run_button = gr.Button("Run", elem_id="run", variant="primary", min_width=90)
                    pause_button = gr.Button("Pause", elem_id="pause", interactive=False, min_width=90)
                with gr.Row(elem_classes="vgp-row"):
                    seed = gr.Number(session.seed, label="Seed", precision=0, elem_id="seed", min_width=150)
                    reset_button = gr.Button("Reset", elem_id="reset", min_width=90)
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
                else:
                    with gr.Row(elem_classes="vgp-row"):
                        goal = [
                            gr.Number(
                                round(float(value), 2),
                                label=f"Goal {axis}",
                                info=span,
                                elem_id=f"goal_{axis}",
                                min_width=150,
                            )
                            for axis, value, span in zip(
                                "xy", session.observation[maze.goal], _spans(maze), strict=True
                            )
                        ]
                        move = gr.Button("Move the goal", elem_id="move", min_width=150)
        values = gr.HTML(elem_id="values", elem_classes=["vgp", "panels"])
        gr.HTML(join([tag("h2", "How it plans"), tag("p", _NOTE)]), elem_classes="vgp")
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
                for slider in list_sliders(session)
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
        outputs = [frame, plans, values, status, message, step_button, run_button, pause_button]

        def listen(event: Callable[..., Any], handler: Callable[..., Any], inputs: Any = None, **options: Any) -> None:
            quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
            event(handler, inputs, outputs, **quiet | options)

        listen(page.load, handlers.load)
        listen(step_button.click, handlers.make(take_step))
        listen(run_button.click, handlers.run)
        # Not behind the steps in the queue.
        listen(pause_button.click, handlers.make(pause), queue=False)
        listen(reset_button.click, handlers.make(reset), [seed])
        listen(seed.submit, handlers.make(reset), [seed])
        latest = {"trigger_mode": "always_last"}  # while a slider is drawn, its last place counts
        for name, slider in sliders.items():
            listen(slider.change, handlers.make(changing(name)), [slider], **latest)
        listen(pace.change, handlers.make(set_pace), [pace], **latest)
        if maze is None:
            listen(dimensions.change, handlers.make(showing(names)), [dimensions], **latest)
        else:
            for event in (move.click, *(number.submit for number in goal)):
                listen(event, handlers.make(aim), goal)
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
                listen(box.change, handlers.make(steer), [reach, follow], **latest)
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


def _head(session: Session) -> Markup:
    where = tag("p", "The planner in ", tag("code", session.deployed.folder), ", live.")
    return join([tag("h1", session.deployed.env_id), where])


def _legend(maze: bool) -> Markup:
    keys = {"plan-key": "the plan", "many-key": "other candidates", "past-key": "what happened"}
    keys |= {"past-key star": "the goal"} if maze else {"plan-key dashed": "an earlier plan"}
    entries = [tag("span", text, class_=kind) for kind, text in keys.items()]
    if not maze:
        return tag("div", *entries, tag("span", "over the steps of the episode"), class_="legend")
    how = (
        "Click a free place, or give its numbers below: the goal moves there, in the environment too, and plans go "
        "there."
    )
    return join([tag("div", *entries, class_="legend"), tag("p", how)])


def _spans(maze: Maze) -> list[str]:
    """Return where x and y of places inside the outer walls lie, as text."""
    low, high = (corner.tolist() for corner in maze.corners)
    inner = [(a + maze.width, b - maze.width) for a, b in zip(low, high, strict=True)]
    return [f"from {a:g} to {b:g}" for a, b in inner]
