import { test } from 'tap';
import { createManualClock } from '../testing/manual-clock.ts';
import { createEndpointNames, resolveHost } from './endpoint-names.ts';

const URL = 'https://beta.mesh.cilium.io:2379';
const NAME = 'beta.mesh.cilium.io';

function makeNames(endpoints: readonly string[] = [URL]) {
  const clock = createManualClock();
  const answers = new Map<string, readonly string[] | 'fails' | 'hangs'>([[NAME, ['192.0.2.1']]]);
  const asked: string[] = [];
  const names = createEndpointNames(endpoints, {
    fixed: [{ hostname: 'fixed.example', ips: ['192.0.2.99'] }],
    clock,
    resolve: async (host) => {
      asked.push(host);
      const answer = answers.get(host) ?? 'fails';
      if (answer === 'fails') throw new Error('getaddrinfo ENOTFOUND');
      if (answer === 'hangs') return new Promise(() => undefined);
      return answer;
    },
  });
  return { clock, answers, asked, names };
}

test('each name is resolved for each connection; addresses and names of the file are not', async (t) => {
  const { names, asked, answers } = makeNames([
    URL,
    `${URL.replace('2379', '2380')}`,
    'https://192.0.2.7:2379',
    'https://[2001:db8::1]:2379',
    'https://fixed.example:2379',
  ]);
  t.same(await names.dial(), [{ hostname: NAME, ips: ['192.0.2.1'] }]);
  t.same(asked, [NAME]);
  answers.set(NAME, ['192.0.2.2', '192.0.2.3']);
  t.same(await names.dial(), [{ hostname: NAME, ips: ['192.0.2.2', '192.0.2.3'] }]);
});

test('a name server that fails or hangs takes nobody away', async (t) => {
  const { names, answers, clock } = makeNames();
  answers.set(NAME, 'fails');
  t.same(await names.dial(), [], 'the connection itself says that the name is unknown');
  answers.set(NAME, ['192.0.2.1']);
  await names.dial();
  answers.set(NAME, 'fails');
  t.same(await names.dial(), [{ hostname: NAME, ips: ['192.0.2.1'] }]);
  t.equal(await names.haveMoved({ isBroken: true }), false);
  answers.set(NAME, 'hangs');
  const dialling = names.dial();
  await clock.advance(5000);
  t.same(await dialling, [{ hostname: NAME, ips: ['192.0.2.1'] }]);
});

test('a broken connection follows its name at once, a working one when the name has left it for good (promise 19)', async (t) => {
  const { names, answers } = makeNames();
  await names.dial();
  t.equal(await names.haveMoved({ isBroken: true }), false);
  answers.set(NAME, ['192.0.2.2', '192.0.2.1']);
  t.equal(
    await names.haveMoved({ isBroken: false }),
    false,
    'the address in use is still one of them',
  );
  t.equal(await names.haveMoved({ isBroken: true }), true);
  answers.set(NAME, ['192.0.2.2']);
  t.equal(await names.haveMoved({ isBroken: false }), false, 'once may be chance');
  answers.set(NAME, ['192.0.2.1']);
  t.equal(await names.haveMoved({ isBroken: false }), false);
  answers.set(NAME, ['192.0.2.2']);
  await names.haveMoved({ isBroken: false });
  t.equal(await names.haveMoved({ isBroken: false }), true);
  await names.dial();
  t.equal(await names.haveMoved({ isBroken: false }), false);
});

test('the machine resolves its own name', async (t) => {
  const addresses = await resolveHost('localhost');
  t.ok(addresses.includes('127.0.0.1') || addresses.includes('::1'), addresses.join());
});
