import { test } from 'tap';
import { parseScrape } from '../testing/scrape-text.ts';
import { type HealthSources, listenHealthServer } from './health-server.ts';
import { createMetrics } from './metrics.ts';

const ANY = { host: '127.0.0.1', port: 0 };

async function openServer(sources: HealthSources) {
  const server = await listenHealthServer(ANY, { flag: '--metrics-address', sources });
  return {
    server,
    async ask(path: string, method = 'GET') {
      const answer = await fetch(`http://127.0.0.1:${server.address.port}${path}`, { method });
      return {
        status: answer.status,
        type: answer.headers.get('content-type'),
        text: await answer.text(),
      };
    },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

test('readiness goes red with a line for each reason, and green again', async (t) => {
  let missing: string[] = ['first reason: do this', 'second reason: do that'];
  await using open = await openServer({ missing: () => missing });
  t.match(await open.ask('/readyz'), {
    status: 503,
    text: 'not ready:\n- first reason: do this\n- second reason: do that\n',
  });
  t.match(await open.ask('/healthz'), { status: 200 }, 'the process answers all the same');
  missing = [];
  t.match(await open.ask('/readyz?verbose'), { status: 200, text: 'ok\n' });
});

test('metrics are scraped over HTTP', async (t) => {
  const metrics = createMetrics();
  const gauge = metrics.gauge('isthmus_a', { help: 'A' });
  metrics.onCollect(() => gauge.set(4, {}));
  await using open = await openServer({ metrics });
  const answer = await open.ask('/metrics');
  t.match(answer, { status: 200, type: /^text\/plain; version=0\.0\.4/ });
  t.equal(parseScrape(answer.text).value('isthmus_a'), 4);
});

test('what is not served is told, and a source that throws harms only its own request', async (t) => {
  await using open = await openServer({
    status: () => {
      throw new Error('cannot tell');
    },
  });
  t.match(await open.ask('/metrics'), { status: 404, text: 'expected one of /healthz, /status\n' });
  t.match(await open.ask('/status'), { status: 500, text: 'cannot tell\n' });
  t.match(await open.ask('/healthz', 'POST'), { status: 405 });
  t.match(await open.ask('/healthz', 'HEAD'), { status: 200, text: '' });
});

test('a status with big integers is JSON', async (t) => {
  await using open = await openServer({ status: () => ({ revision: 12n }) });
  t.same(JSON.parse((await open.ask('/status')).text), { revision: '12' });
});

test('an address that cannot be used is named with its flag', async (t) => {
  await using open = await openServer({});
  const { port } = open.server.address;
  const listen = (host: string, at: number) =>
    listenHealthServer({ host, port: at }, { flag: '--metrics-address', sources: {} });
  await t.rejects(listen('127.0.0.1', port), {
    code: 'port-taken',
    retryable: true,
    message: `cannot listen on 127.0.0.1:${port}: the port is taken; free it or choose another with --metrics-address`,
  });
  await t.rejects(listen('192.0.2.77', 0), { code: 'address', message: /--metrics-address/ });
});
