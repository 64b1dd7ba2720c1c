import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { createFarewells } from './farewells.ts';

const [A, B] = [parseIpAddress('10.1.0.1'), parseIpAddress('10.1.0.2')];

test('an address goes half a second after its pod, and stays when it is wanted again', async (t) => {
  const clock = createManualClock();
  const gone: IpAddress[] = [];
  const farewells = createFarewells({ withdraw: (address) => gone.push(address), clock });
  const ending = new AbortController();
  const running = farewells.run(ending.signal);
  farewells.begin(A);
  await clock.advance(300);
  farewells.begin(B);
  farewells.begin(A);
  await clock.advance(199);
  t.same(gone, []);
  await clock.advance(1);
  t.same(gone, [A], 'told twice it goes at its first time');
  farewells.cancel(B);
  await clock.advance(1000);
  t.same(gone, [A], 'what came back stays');
  farewells.begin(A);
  await clock.advance(500);
  t.same(gone, [A, A]);
  farewells.begin(B);
  await clock.advance(10);
  ending.abort();
  await running;
  await clock.advance(1000);
  t.same(gone, [A, A], 'nothing goes after the end');
});
