import { test } from 'tap';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import { createNamedPortBook } from './named-port-book.ts';

const [ONE, TWO, THREE] = ['10.0.0.1', '10.0.0.2', '10.0.0.3'].map(parseIpPrefix);
const http = (port: number) => ({ name: 'http', port, protocol: 'TCP' });

test('an identity has the ports of all its addresses, and is told when they change', async (t) => {
  if (ONE === undefined || TWO === undefined || THREE === undefined) throw new Error('no prefixes');
  const book = createNamedPortBook();
  t.same(book.set(1, ONE, { identity: 300, ports: undefined }), []);
  t.same(book.set(1, ONE, { identity: 300, ports: [http(8080)] }), [300]);
  t.same(book.set(1, TWO, { identity: 300, ports: [http(8080)] }), [], 'nothing new');
  t.equal(book.ofAddress(ONE), book.ofAddress(TWO), 'kept once');
  t.same(book.ofIdentity(300), [{ name: 'http', protocol: 6, port: 8080 }]);
  t.same(
    book.set(1, THREE, { identity: 300, ports: [http(9090), { ...http(53), protocol: 'UDP' }] }),
    [300],
  );
  t.same(
    book
      .ofIdentity(300)
      ?.map(({ port }) => port)
      .sort(),
    [53, 8080, 9090],
  );
  t.same(book.set(1, ONE, undefined), [], 'another one has them still');
  t.same(book.set(1, TWO, { identity: 301, ports: [http(8080)] }), [300, 301], 'an address moves');
  t.same(book.set(1, THREE, undefined), [300]);
  t.equal(book.ofIdentity(300), undefined);
  t.equal(book.ofAddress(THREE), undefined);
});

test('what is no port with a name is none, and a second cluster changes nothing', async (t) => {
  if (ONE === undefined) throw new Error('no prefix');
  const book = createNamedPortBook();
  const nonsense = [
    { name: '', port: 1, protocol: 'TCP' },
    http(0),
    { ...http(1), protocol: 'ICMP' },
  ];
  t.same(book.set(1, ONE, { identity: 300, ports: nonsense }), []);
  book.set(1, ONE, { identity: 300, ports: [http(1)] });
  t.same(book.set(2, ONE, { identity: 400, ports: [http(2)] }), []);
  t.same(book.set(2, ONE, undefined), []);
  t.equal(book.ofIdentity(300)?.length, 1);
});
