"""The page as a visitor meets it: served by ``vgp play``, opened in Chromium."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from browser import SCHEMES, WIDTHS, launch, open_page
from fakes import write_tiny

from vgp_lightning.cli import main
from vgp_lightning.play.server import _listen, _name_address

TASKS = {"Hopper-v5": (3, 11), "PointMaze_UMaze-v3": (2, 8)}


@contextmanager
def serving(folder, *options):
    """Serve a planner at a free port, and yield the address; at the end Ctrl-C ends the server."""
    command = [sys.executable, "-m", "vgp_lightning", "play", str(folder), "--port", "0", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        said = []
        try:
            for line in run.stdout:
                said.append(line)
                if found := re.search(r"http://\S+", line):
                    break
            else:
                pytest.fail(f"the server did not start: {''.join(said)}")
            yield found[0]
        finally:
            run.send_signal(signal.SIGINT)
            rest = run.communicate(timeout=60)[0]
        assert "Traceback" not in rest, rest
        assert run.returncode == 0, rest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny untrained planners, by the environment."""
    root = tmp_path_factory.mktemp("planners")
    return {
        env_id: write_tiny(root / env_id, guided="Maze" not in env_id, task={"env_id": env_id}, dimensions=dimensions)
        for env_id, dimensions in TASKS.items()
    }


@pytest.fixture(scope="module")
def hopper(folders):
    with serving(folders["Hopper-v5"], "--visitors", "2", "--seed", "3") as address:
        yield address


@pytest.fixture(scope="module")
def maze(folders):
    pytest.importorskip("gymnasium_robotics")
    with serving(folders["PointMaze_UMaze-v3"]) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with launch() as browser:
        yield browser


@pytest.fixture
def visiting(chromium):
    """Open a page and wait until it shows the environment; at the end nothing may have gone wrong on it."""

    @contextmanager
    def visit_page(address, **options):
        with open_page(address, browser=chromium, **options) as visit:
            visit.page.wait_for_selector("#frame img, #frame .notice", timeout=60_000)
            yield visit.page
        visit.check()
        time.sleep(1)  # the server closes the session of who has left

    return visit_page


def status(page, name):
    """Return what the page says of the episode under a name."""
    row = page.locator("#status dl > div", has=page.locator("dt", has_text=re.compile(f"^{name}$")))
    return row.locator("dd").inner_text()


def wait_for_step(page, step):
    page.wait_for_function(f"document.querySelector('#status')?.innerText.match(/step\\s+{step}\\b/)", timeout=30_000)


def changes(page, act, selector="#plans svg"):
    """Return whether what a selector shows changes after an act."""
    before = page.inner_html(selector)
    act()
    try:
        page.wait_for_function(
            "([selector, before]) => document.querySelector(selector)?.innerHTML !== before",
            arg=[selector, before],
            timeout=15_000,
        )
    except Exception as error:  # Playwright's, which is imported by no test
        if "Timeout" not in type(error).__name__:
            raise
        return False
    return True


def set_slider(page, name, value):
    box = page.locator(f"#{name} input[type=number]")
    box.fill(str(value))
    box.blur()


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_fits_its_window_and_follows_the_readers_scheme(hopper, visiting, width, scheme, tmp_path):
    with visiting(hopper, width=width, scheme=scheme) as page:
        assert page.title() == "Hopper-v5 - vgp play"
        assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
        assert page.locator("#plans svg").count() == 6
        shots = os.environ.get("VGP_SCREENSHOTS", tmp_path)
        page.screenshot(path=f"{shots}/play-{width}-{scheme}.png", full_page=True)


@pytest.mark.browser
def test_a_step_changes_the_picture_and_a_slider_the_plan_alone(hopper, visiting):
    with visiting(hopper) as page:
        assert (status(page, "seed"), status(page, "step")) == ("3", "0")
        before = page.get_attribute("#frame img", "src")
        assert changes(page, lambda: page.click("#step"))
        wait_for_step(page, 1)
        after = page.get_attribute("#frame img", "src")
        assert before != after
        assert changes(page, lambda: set_slider(page, "scale", 0.9))
        assert (status(page, "step"), page.get_attribute("#frame img", "src")) == ("1", after)
        assert changes(page, lambda: set_slider(page, "batch_size", 5), "#values svg")
        assert page.locator("#values .dots").count() == 5


@pytest.mark.browser
def test_it_runs_is_paused_and_begins_anew_with_another_seed(hopper, visiting):
    with visiting(hopper) as page:
        set_slider(page, "pace", 1)
        page.click("#run")
        page.wait_for_function("document.querySelector('#status').innerText.match(/step\\s+[3-9]/)", timeout=60_000)
        page.click("#pause")
        page.wait_for_selector("#step:not([disabled])", timeout=30_000)
        stood = status(page, "step")
        time.sleep(2)
        assert status(page, "step") == stood
        page.locator("#seed input").fill("12")
        page.click("#reset")
        wait_for_step(page, 0)
        assert status(page, "seed") == "12"


@pytest.mark.browser
def test_a_wrong_seed_is_a_message_and_the_page_goes_on(hopper, visiting):
    with visiting(hopper) as page:
        page.locator("#seed input").fill("-7")
        page.click("#reset")
        page.wait_for_selector("#message [role=alert]", timeout=30_000)
        assert "seed is -7: a whole number from 0" in page.inner_text("#message")
        page.click("#step")
        wait_for_step(page, 1)
        assert page.locator("#message [role=alert]").count() == 0


@pytest.mark.browser
def test_visitors_have_episodes_of_their_own_and_one_too_many_is_told(hopper, visiting):
    with visiting(hopper) as page:
        page.click("#step")
        wait_for_step(page, 1)
        context = page.context.browser.new_context()
        second, third = context.new_page(), context.new_page()
        second.goto(hopper)
        second.wait_for_selector("#frame img", timeout=60_000)
        assert (status(second, "step"), status(page, "step")) == ("0", "1")
        third.goto(hopper)
        third.wait_for_selector("#message [role=alert]", timeout=60_000)
        assert "2 visitors are here" in third.inner_text("#message")
        second.close()
        time.sleep(2)
        third.reload()
        third.wait_for_selector("#frame img", timeout=60_000)
        context.close()


@pytest.mark.browser
def test_in_a_maze_a_click_moves_the_goal_and_one_into_a_wall_is_refused(maze, visiting):
    with visiting(maze) as page:
        picture = page.locator("#plans svg")
        picture.scroll_into_view_if_needed()
        goal, size = "#plans .goal", picture.bounding_box()

        def click(across, down):
            picture.click(position={"x": across * size["width"], "y": down * size["height"]})

        click(0.05, 0.5)
        page.wait_for_selector("#message [role=alert]", timeout=30_000)
        assert "is in a wall" in page.inner_text("#message")
        for across in (0.3, 0.66):  # the seed may have put the goal into either corner
            click(across, 0.31)
            page.wait_for_function(
                "([goal, across]) => Math.abs(document.querySelector(goal).points[0].x - 400 * across) < 3",
                arg=[goal, across],
                timeout=30_000,
            )
        assert "moved by you" in status(page, "goal")
        page.click("#step")
        wait_for_step(page, 1)
        assert changes(page, lambda: page.click("#reach_goal input"))
        assert "cannot" not in page.inner_text("#message")


@pytest.mark.browser
def test_in_a_maze_the_goal_is_moved_by_the_keyboard_alone(maze, visiting):
    with visiting(maze) as page:
        page.focus("#goal_x input")
        for x, y in (("-1", "1"), ("1", "-1")):  # the seed may have put the goal into either corner
            for number in (x, y):
                page.keyboard.press("Control+A")
                page.keyboard.type(number)
                page.keyboard.press("Tab")
            page.keyboard.press("Enter")  # on the button
            page.wait_for_function(
                "text => document.querySelector('#status').innerText.includes(text)",
                arg=f"({float(x):.2f}, {float(y):.2f}), moved by you",
                timeout=30_000,
            )
            label = page.get_attribute("#plans svg", "aria-label")
            assert f"the goal at ({float(x):.2f}, {float(y):.2f})" in label
            page.keyboard.press("Shift+Tab")
            page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.closest('#goal_x') !== null")
        page.keyboard.type("9")
        page.keyboard.press("Enter")
        page.wait_for_selector("#message [role=alert]", timeout=30_000)
        assert "is in a wall" in page.inner_text("#message")


@pytest.mark.browser
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_of_a_maze_fits_its_window(maze, visiting, width, scheme, tmp_path):
    with visiting(maze, width=width, scheme=scheme) as page:
        assert page.locator("#plans svg").count() == 1
        shots = os.environ.get("VGP_SCREENSHOTS", tmp_path)
        page.screenshot(path=f"{shots}/maze-{width}-{scheme}.png", full_page=True)


@pytest.mark.browser
def test_the_page_answers_this_machine_alone_and_forbids_what_is_elsewhere(hopper):
    with urllib.request.urlopen(hopper) as answer:
        policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    other = urllib.request.Request(hopper, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(other)
    port = int(hopper.rpartition(":")[2])
    ours = socket.gethostbyname(socket.gethostname())
    if not ours.startswith("127."):
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((ours, port), timeout=5)


def test_a_port_that_is_taken_or_cannot_be_is_refused_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for wrong, words in ((port, "--port 0 takes a free port"), (70000, "port is 70000: a whole number between 0")):
            with pytest.raises(SystemExit) as ended:
                main(["play", "nowhere", "--port", str(wrong)])
            assert ended.value.code == 2
            assert words in capsys.readouterr().err


def test_an_address_that_other_sites_could_use_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["play", "nowhere", "--host", "::1"])
    assert "--host ::1 cannot be kept to this machine's own pages: give --host 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_the_address_that_is_named_is_one_that_a_browser_here_can_open(host, address):
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        with _listen(host, 0) as listener:
            assert _name_address(listener) == f"http://{address}:{listener.getsockname()[1]}"
    except ValueError as error:
        pytest.skip(str(error))
