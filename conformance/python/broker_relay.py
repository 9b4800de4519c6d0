"""A listener of a broker whose connections go through this process, which holds a request back and lets it come late."""
import contextlib
import socket
import struct
import threading

# Keys of Kafka's requests.
PRODUCE, END_TXN = 0, 26


class Relay:
  """The listener, and whoever passes frames on between it and its clients."""

  def __init__(self, free_port):
    self._upstream = free_port()
    self._listening = socket.create_server(('127.0.0.1', 0))
    self.bootstrap = 'localhost:%d' % self._listening.getsockname()[1]
    threading.Thread(target=self._accept, daemon=True).start()

  def formatting(self):
    return []

  def added_to(self, properties):
    """The properties of a broker, with the listener, whose clients are sent here."""
    added = {
        'listeners': 'RELAYED://localhost:%d' % self._upstream,
        'advertised.listeners': 'RELAYED://%s' % self.bootstrap,
        'listener.security.protocol.map': 'RELAYED:PLAINTEXT',
    }
    return {**properties, **{name: '%s,%s' % (properties[name], value) for name, value in added.items()}}

  def stop(self):
    self._listening.close()

  def _accept(self):
    with contextlib.suppress(OSError):
      while True:
        client, _ = self._listening.accept()
        threading.Thread(target=self._serve, args=(client, ), daemon=True).start()

  def connect(self):
    """A connection to the broker."""
    return socket.create_connection(('localhost', self._upstream))

  def _serve(self, client):
    with contextlib.suppress(OSError):
      broker = self.connect()
      requests = threading.Thread(target=self._pass, args=(client, broker, self.request), daemon=True)
      requests.start()
      self._pass(broker, client, self.answer)

  def _pass(self, source, target, see):
    """Passes frames on that are seen to be passed on; the others end the connection."""
    with contextlib.suppress(OSError):
      stream = source.makefile('rb')
      while True:
        head = stream.read(4)
        frame = head and stream.read(*struct.unpack('>i', head))
        if not frame or not see(frame):
          break
        target.sendall(head + frame)
    for each in (source, target):
      with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)

  def request(self, _frame):
    """Whether a client's request is passed on."""
    return True

  def answer(self, _frame):
    """Whether a broker's answer is passed on."""
    return True


class LateCommit(Relay):
  """Holds a commit back, whose client then sends it again. The first comes in the middle of the next transaction."""

  def __init__(self, free_port):
    self._lock = threading.Lock()
    self._armed, self._kept, self._came_again, self._produced = False, None, False, None
    self._passes = threading.Event()
    self._passes.set()
    # What the broker said of the late one: an error's code.
    self.said, self.came = None, threading.Event()
    super().__init__(free_port)

  def arm(self):
    """The next commit is held back."""
    with self._lock:
      self._armed = True

  def let_pass(self):
    """Clients are served again."""
    self._passes.set()

  def request(self, frame):
    self._passes.wait()
    key, _, number = struct.unpack('>hhi', frame[:8])
    with self._lock:
      if key == END_TXN and self._armed:
        self._armed, self._kept = False, frame
        return False
      self._came_again |= key == END_TXN and self._kept is not None
      if key == PRODUCE and self._came_again and self._produced is None:
        self._produced = number
    return True

  def answer(self, frame):
    with self._lock:
      is_it = self._produced is not None and struct.unpack('>i', frame[:4])[0] == self._produced and not self.came.is_set()
      if is_it:
        self._passes.clear()
        self.said = self._send_late()
        self.came.set()
    return True

  def _send_late(self):
    with self.connect() as connection:
      connection.sendall(struct.pack('>i', len(self._kept)) + self._kept)
      # The length, the number of the request, for how long the client is throttled, and the error.
      *_, error = struct.unpack('>iiih', connection.makefile('rb').read(14))
    return error
