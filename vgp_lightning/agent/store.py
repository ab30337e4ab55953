"""A store of finished episodes, which several processes fill together and which survives the end of any of them.

A store is a folder. ``KEY.jsonl`` has one line of JSON for each finished episode of one identity (what decides the
episodes' numbers; KEY is a hash of it), for each claim, and for each fact that is computed once for all processes.
``lock`` is held for the moments in which lines are read and appended, ``KEY-ID.process`` for as long as a process
lives: the operating system releases it however the process ends. On a shared folder the locks need a file system that
has them, such as NFS from version 4 on.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from filelock import FileLock, Timeout
from rich.console import Console

from vgp_lightning.agent.lines import Lines

# An episode: its player, the seed of the environment, the seed of the agent.
Item = tuple[int, int, int]
Wanted = Callable[[], Iterable[Item]]

_POLL = 0.3  # seconds between two looks at what other processes do
_CURE = "remove the file, and all its episodes are played again"


class EpisodeStore:
    """Finished episodes, claims of those that are being played, and facts.

    Use it as a context. What a process had claimed and not finished at its end is free for the others.

    Attributes:
        folder: The folder; None: in memory, for this process alone.
        key: Hash of the identity.
        finished: For each finished episode what was given to ``finish``, by whichever process.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any] | None = None, *, again: bool = False) -> None:
        """Open the store, and make the folder if it is missing.

        Args:
            folder: The folder; None: in memory, for this process alone.
            identity: What decides the numbers of an episode, as JSON can hold it.
            again: Forget the finished episodes of this identity, unless a living process is playing them.

        Raises:
            ValueError: If a living process uses the folder for another identity, or the store's file is damaged.
        """
        self.folder = folder
        self.finished: dict[Item, dict[str, Any]] = {}
        self._facts: dict[str, Any] = {}
        self._claims: dict[Item, str] = {}
        self._id = uuid4().hex
        self._dead: set[str] = set()
        text = json.dumps(identity or {}, sort_keys=True)
        self.key = sha256(text.encode()).hexdigest()[:16]
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{self.key}.jsonl"
        self._lines = Lines(self._file)
        self._mutex = FileLock(folder / "lock", poll_interval=0.02, thread_local=False)
        self._writing = FileLock(folder / f"{self.key}.writing", poll_interval=0.1, thread_local=False)
        self._alive = FileLock(self._process_file(self._id), thread_local=False)
        with self._mutex:
            living = self._living()
            if others := sorted(set(living.values()) - {self.key}):
                raise ValueError(
                    f"another process plays other episodes in {folder} ({others[0]}.jsonl): wait for its end, or give "
                    "another --output_dir"
                )
            if again and not living:
                self._file.unlink(missing_ok=True)
            self._alive.acquire()
            self._lines.read(self._take, _CURE)
            if self._lines.count == 0:
                self._append({"identity": json.loads(text)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what this process has claimed and not finished."""
        if self.folder is None or not self._alive.is_locked:
            return
        with self._mutex:
            self._process_file(self._id).unlink(missing_ok=True)
            self._alive.release()

    # ---------------------------------------------------------------- episodes

    def claim(self, wanted: Wanted) -> Item | None:
        """Return the first wanted episode that is neither finished nor being played; None: there is none now."""
        with self._locked():
            for item in wanted():
                if item not in self.finished and not self._is_played(item):
                    self._append({"claim": item, "by": self._id})
                    self._claims[item] = self._id
                    return item
        return None

    def finish(self, item: Item, episode: Mapping[str, Any]) -> None:
        """Store a finished episode: numbers, texts, arrays, and mappings of them."""
        with self._locked():
            if item not in self.finished:
                self._append({"episode": item, **episode})
                self.finished[item] = dict(episode)

    def share(self, wanted: Wanted, play: Callable[[], None]) -> None:
        """Call ``play``, which claims episodes and plays them, until all wanted ones are finished by whichever process.

        Args:
            wanted: Returns the episodes that are wanted, finished ones too.
            play: Returns when there is nothing left to claim.
        """
        console = Console(stderr=True)
        told = not console.is_terminal
        while True:
            play()
            self.update()
            if all(item in self.finished for item in wanted()):
                return
            if not told:
                console.print(f"waiting for other processes, which play what is left in {self.folder}", markup=False)
                told = True
            time.sleep(_POLL)  # others play what is left; if one of them dies, the next call plays its episodes

    def update(self) -> None:
        """Read what other processes have stored."""
        with self._locked():
            pass

    def _is_played(self, item: Item) -> bool:
        by = self._claims.get(item)
        if by is None or by in self._dead:
            return False
        if by == self._id or _is_held(self._process_file(by)):
            return True
        self._dead.add(by)
        return False

    # ---------------------------------------------------------------- facts

    def fact(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the value of a fact. The first process that asks makes it, and the others wait for it.

        Args:
            name: Name of the fact.
            make: Returns the value, as JSON can hold it.
        """
        if (known := self.known(name)) is not None:
            return known
        with self.exclusively():
            if (known := self.known(name)) is not None:
                return known
            value = json.loads(json.dumps(make()))  # as other processes read it
            with self._locked():
                self._append({"fact": name, "value": value})
                self._facts[name] = value
            return value

    def known(self, name: str) -> Any:
        """Return the value of a fact; None: nobody has made it."""
        self.update()
        return self._facts.get(name)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep the other processes of this identity from making facts and files."""
        if self.folder is None:
            yield
            return
        with self._writing:
            yield

    # ---------------------------------------------------------------- the file

    def discard(self) -> None:
        """Remove the files of this identity and, if nothing is left in it, the folder.

        Where another process still uses them, they stay.
        """
        if self.folder is None:
            return
        with self._mutex:
            if set(self._living()) - {self._id}:
                return
            self._process_file(self._id).unlink(missing_ok=True)
            self._alive.release()
            for path in (self._file, Path(self._writing.lock_file)):
                path.unlink(missing_ok=True)
            if [path.name for path in self.folder.iterdir()] == ["lock"]:
                Path(self._mutex.lock_file).unlink()
        try:
            self.folder.rmdir()
        except OSError:
            return  # somebody else's files

    def _process_file(self, by: str) -> Path:
        return self._file.with_name(f"{self.key}-{by}.process")

    def _living(self) -> dict[str, str]:
        """Return {process: key} of the living processes, and remove what dead ones have left."""
        found = {}
        for path in self._file.parent.glob("*-*.process"):
            key, _, by = path.stem.partition("-")
            if by == self._id or _is_held(path):
                found[by] = key
            else:
                path.unlink(missing_ok=True)
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder for a moment, with everything read that others have appended."""
        if self.folder is None:
            yield
            return
        with self._mutex:
            self._lines.read(self._take, _CURE)
            yield

    def _take(self, line: dict[str, Any]) -> None:
        """Note what a line says."""
        if "episode" in line:
            player, seed, agent_seed = line.pop("episode")
            self.finished[player, seed, agent_seed] = line
        elif "claim" in line:
            player, seed, agent_seed = line["claim"]
            self._claims[player, seed, agent_seed] = line["by"]
        elif "fact" in line:
            self._facts[line["fact"]] = line["value"]
        elif "identity" not in line:
            raise ValueError("it is no episode, claim or fact")

    def _append(self, line: Mapping[str, Any]) -> None:
        """Append a line; to be called while the folder is held."""
        if self.folder is not None:
            self._lines.append(line, lasting="episode" in line)


def read_stores(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the identity and the facts of each store in a folder."""
    for path in sorted(folder.glob("*.jsonl")):
        identity: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        for line in path.read_bytes().split(b"\n")[:-1]:  # without a torn last line
            try:
                told = json.loads(line)
            except ValueError:
                break
            identity = told.get("identity", identity)
            facts |= {told["fact"]: told["value"]} if "fact" in told else {}
        yield identity, facts


def _is_held(path: Path) -> bool:
    """Return whether a living process holds a lock file; to be called while the folder is held."""
    if not path.exists():
        return False
    probe = FileLock(path, timeout=0, thread_local=False)
    try:
        probe.acquire()
    except Timeout:
        return True
    probe.release()
    return False
