"""Listeners of a broker that ask who comes, and what clients of theirs are configured with, as Java's clients are."""
import secrets
import subprocess

MECHANISMS = ['PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512', 'OAUTHBEARER']
MODULES = {
    'PLAIN': 'plain.PlainLoginModule',
    'SCRAM-SHA-256': 'scram.ScramLoginModule',
    'SCRAM-SHA-512': 'scram.ScramLoginModule',
    'OAUTHBEARER': 'oauthbearer.OAuthBearerLoginModule',
}
USER = 'alice'


class Security:
  """Keys and passwords, made anew. Three listeners: TLS asks for a client's certificate, SASL is over TLS, BARE is SASL without."""

  def __init__(self, folder, free_port):
    self.folder = folder
    self.password, self._stores = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    self._ports = {name: free_port() for name in ('TLS', 'SASL', 'BARE')}
    for name in ('server', 'client', 'stranger'):
      self._key(name)
    self._keytool('-importcert', '-noprompt', '-alias', 'client', '-file', self.path('client.pem'), '-keystore',
                  self.path('trusted.p12'))

  def path(self, name):
    return str(self.folder / name)

  def _keytool(self, *command):
    subprocess.run(['keytool', *command, '-storetype', 'PKCS12', '-storepass', self._stores], check=True, capture_output=True)

  def _key(self, name):
    """A key that signs itself, and its certificate as PEM."""
    store = self.path(name + '.p12')
    self._keytool('-genkeypair', '-alias', name, '-keyalg', 'EC', '-dname', 'CN=%s' % name, '-ext', 'san=dns:localhost',
                  '-keystore', store)
    self._keytool('-exportcert', '-rfc', '-alias', name, '-file', self.path(name + '.pem'), '-keystore', store)

  def formatting(self):
    """Arguments of the tool that formats the broker's storage."""
    scram = [mechanism for mechanism in MECHANISMS if mechanism.startswith('SCRAM')]
    return ['--add-scram=%s=[name=%s,password=%s]' % (mechanism, USER, self.password) for mechanism in scram]

  def added_to(self, properties):
    """The properties of a broker, with these listeners."""
    listeners = ','.join('%s://localhost:%d' % listener for listener in self._ports.items())
    added = {name: '%s,%s' % (properties[name], listeners) for name in ('listeners', 'advertised.listeners')}
    protocols = 'TLS:SSL,SASL:SASL_SSL,BARE:SASL_PLAINTEXT'
    added['listener.security.protocol.map'] = '%s,%s' % (properties['listener.security.protocol.map'], protocols)
    added['sasl.enabled.mechanisms'] = ','.join(MECHANISMS)
    added['listener.name.tls.ssl.client.auth'] = 'required'
    options = {
        'PLAIN': 'user_%s="%s"' % (USER, self.password),
        'OAUTHBEARER': 'unsecuredLoginStringClaim_sub="broker"',
    }
    for listener in ('sasl', 'bare'):
      for mechanism in MECHANISMS:
        name = 'listener.name.%s.%s.sasl.jaas.config' % (listener, mechanism.lower())
        added[name] = '%s required %s;' % (module(mechanism), options.get(mechanism, ''))
    for kind, file in (('keystore', 'server.p12'), ('truststore', 'trusted.p12')):
      added['ssl.%s.type' % kind], added['ssl.%s.location' % kind] = 'PKCS12', self.path(file)
      added['ssl.%s.password' % kind] = self._stores
    return {**properties, **added}

  def client(self, listener, **more):
    """The configuration of a client of a listener; underscores are dots."""
    protocol = {'TLS': 'SSL', 'SASL': 'SASL_SSL', 'BARE': 'SASL_PLAINTEXT'}[listener]
    config = {'bootstrap.servers': 'localhost:%d' % self._ports[listener], 'security.protocol': protocol}
    if listener != 'BARE':
      config['ssl.truststore.type'], config['ssl.truststore.location'] = 'PEM', self.path('server.pem')
    return {**config, **{name.replace('_', '.'): value for name, value in more.items()}}

  def with_certificate(self, name='client'):
    """A client that shows a certificate."""
    return self.client('TLS', ssl_keystore_location=self.path(name + '.p12'), ssl_keystore_password=self._stores)

  def with_password(self, mechanism, listener='SASL', password=None):
    """A client that tells a user's name and password, the right one if none is given."""
    jaas = '%s required username="%s" password="%s";' % (module(mechanism), USER, password or self.password)
    return self.client(listener, sasl_mechanism=mechanism, sasl_jaas_config=jaas)


def module(mechanism):
  return 'org.apache.kafka.common.security.%s' % MODULES[mechanism]
