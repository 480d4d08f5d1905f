# The Snakemake that is at work in this folder: its lock, its notes, its clocks, its signals.
import json
import signal
import threading

from filelock import FileLock, Timeout

from fdm.store import root


def clean_notes():
    """Drop Snakemake's marks on outputs of steps that were running when a driver was killed, and notes that are damaged.

    Outputs appear whole or not at all, and their records say what they are. The marks would force those steps alone: what comes
    after them would wait for one more call. The notes serve `snakemake --report`; reading a damaged one ends Snakemake.
    """
    notes = Path(".snakemake")
    if not notes.is_dir():
        return
    lock = FileLock(notes / "driver.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return  # they belong to a driver that is at work
    for path in [*notes.glob("incomplete/**/*"), *notes.glob("metadata/**/*")]:
        if path.is_file() and (path.is_relative_to(notes / "incomplete") or not is_json(path)):
            path.unlink()
    lock.release()


def is_json(path):
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def claim_working_tree():
    """One driver at a time, and only once the jobs of a killed one have ended.

    The kernel drops this lock with the process, however that ends: `snakemake --unlock` is never needed (the profile
    switches Snakemake's own lock off).
    """
    global driver  # held until the process ends
    driver = FileLock(".snakemake/driver.lock")
    try:
        driver.acquire(timeout=0)
    except Timeout:
        sys.exit("error: another snakemake is at work in this folder; wait for it or end it")
    for path in root().glob("**/*.lock"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for a job that an earlier run left behind in {path.parent}", file=sys.stderr, flush=True)
            lock.acquire()
        lock.release()


def stop_clocks():
    """Snakemake's clocks (workflow/profiles/default) would hold up its exit for a minute."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()


clean_notes()
# SLURM's warning before the end (`--signal=USR1@120`) reaches every process of a job. Only `fdm` is to act on it: were Snakemake,
# the shell or `tee` to die of it, as is the default, the state would not be saved. Programs inherit what is ignored.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
