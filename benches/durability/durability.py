#!/usr/bin/env python3
"""What checkpoints cost a streaming pipeline, and how long a job takes that goes on from one.

    durability.py throughput|latency|restart [--runner PATH | --endpoint HOST:PORT] [--rounds N] [--option NAME=VALUE]
    durability.py state [--runner PATH] [--rounds N] [--gib N]
    durability.py soak [--runner PATH] [--rounds N] [--minutes N]

Prints a line of JSON for each figure: the medians of rounds. What is compared is measured in turn, each time in a
process and on a service of its own. User code is Python's and runs in that process (LOOPBACK). Temporary folders, with
the checkpoints, are made where TMPDIR says; `state` needs some six times its --gib there.
"""
import argparse
import os
import pathlib
import signal
import sys

import keyed_state
import latency
import restart
import soak
import throughput

RUNNER = pathlib.Path(__file__).resolve().parents[2] / 'target' / 'release' / 'ferrobeam'


def arguments():
  """The parser of the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(required=True, metavar='COMMAND')

  def command(module, name, rounds):
    added = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
    added.set_defaults(main=module.main)
    added.add_argument('--runner', default=str(RUNNER), help='the program ferrobeam')
    added.add_argument('--serve-arg', action='append', default=[], help='a flag for its service (repeatable)')
    added.add_argument('--option', action='append', default=[], metavar='NAME=VALUE', help='of the job (repeatable)')
    added.add_argument('--rounds', type=int, default=rounds)
    return added

  def of_any_runner(added):
    added.add_argument('--endpoint', help='the job server of another runner, HOST:PORT, instead of our own')
    added.add_argument('--interval', type=int, default=1000, help='milliseconds between checkpoints')
    return added

  fast = of_any_runner(command(throughput, 'throughput', 5))
  fast.add_argument('--case', action='append', choices=list(throughput.CASES), help='repeatable; default: all')
  fast.add_argument('--elements', type=int, default=1_000_000, help='of each job')
  fast.add_argument('--limit', type=float, default=600, help='seconds that a job may take')
  fast.add_argument('--batch', type=int, default=1000, help='elements of a call of the source')
  fast.add_argument('--parts', type=int, default=2, help='sources side by side')

  idle = of_any_runner(command(latency, 'latency', 3))
  idle.add_argument('--seconds', type=float, default=30, help='that are measured of each job')
  idle.add_argument('--warm', type=float, default=5, help='seconds of each job before')
  idle.add_argument('--every', type=float, default=20, help='milliseconds between elements')
  idle.set_defaults(kill=None)
  fast.set_defaults(kill=None)

  killed = of_any_runner(command(restart, 'restart', 10))
  killed.add_argument('--every', type=float, default=20, help='milliseconds between elements')
  killed.add_argument('--kill', metavar='COMMAND', help='with --endpoint: the shell command that kills its worker')

  large = command(keyed_state, 'state', 1)
  large.add_argument('--gib', type=float, default=2, help='of keyed state')

  long = command(soak, 'soak', 1)
  long.add_argument('--minutes', type=float, default=60)
  long.add_argument('--every', type=float, default=60, help='seconds of a line')
  long.add_argument('--rate', type=float, default=200, help='elements a second')
  long.add_argument('--interval', type=int, default=1000, help='milliseconds between checkpoints')
  return parser


def main():
  parser = arguments()
  settings = parser.parse_args()
  settings.runner = os.path.abspath(settings.runner)
  if not getattr(settings, 'endpoint', None) and not os.access(settings.runner, os.X_OK):
    parser.error('%s is not there: cargo build --release' % settings.runner)
  if getattr(settings, 'endpoint', None) and getattr(settings, 'kill', '') is None and settings.main is restart.main:
    parser.error('--endpoint needs --kill')
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  return settings.main(settings) or 0


if __name__ == '__main__':
  sys.exit(main())
