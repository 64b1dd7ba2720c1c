import { test } from 'tap';
import { parseEndpoints, parseUrl } from './etcd-endpoint.ts';

test('parseUrl() takes a host and a port, 2379 unless given', async (t) => {
  const cases = [
    ['https://etcd.example:32379', { host: 'etcd.example', port: 32379, secure: true }],
    ['https://etcd.example', { host: 'etcd.example', port: 2379, secure: true }],
    ['https://etcd.example:443', { host: 'etcd.example', port: 443, secure: true }],
    ['http://10.0.0.1:80/', { host: '10.0.0.1', port: 80, secure: false }],
    ['https://[2001:db8::1]:2379', { host: '2001:db8::1', port: 2379, secure: true }],
  ] as const;
  for (const [url, expected] of cases) t.same(parseUrl(url), expected, url);
});

test('parseUrl() refuses anything else', async (t) => {
  const urls = [
    '',
    '10.0.0.1:2379',
    'ftp://a:1',
    'https://',
    'https://a:99999',
    'https://a/b',
    'https://a?b',
    'https://u:p@a',
  ];
  for (const url of urls)
    t.throws(() => parseUrl(url), { name: 'KvError', code: 'invalid', retryable: false }, url);
});

test('parseEndpoints() dials names, addresses and the addresses of aliases', async (t) => {
  const hostAliases = [{ hostname: 'b.example', ips: ['10.0.0.1', '2001:db8::1'] }];
  const urls = ['http://a.example:1', 'http://127.0.0.1:2', 'http://[::1]:3', 'http://b.example:4'];
  t.same(
    parseEndpoints(urls, { hostAliases }).map(({ target }) => target),
    [
      'dns:///a.example:1',
      'ipv4:127.0.0.1:2',
      'ipv6:[::1]:3',
      'ipv4:10.0.0.1:4',
      'ipv6:[2001:db8::1]:4',
    ],
  );
  t.throws(() => parseEndpoints([], {}), { code: 'invalid', message: /no endpoint/ });
});
