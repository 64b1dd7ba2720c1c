import { test } from 'tap';
import {
  choiceParser,
  integerParser,
  parseBoolean,
  parseDuration,
  parseHostPort,
  parseLogLevel,
  parseText,
} from './option-parsers.ts';

test('parseDuration() reads durations as Go writes them', async (t) => {
  const cases = [
    ['0', 0],
    ['500ms', 500],
    ['30s', 30_000],
    ['15m', 900_000],
    ['1h30m', 5_400_000],
    ['1.5s', 1500],
  ] as const;
  for (const [text, expected] of cases) t.equal(parseDuration(text), expected, text);
  for (const text of ['', '15', 's', '15x', '-1s', '1s ', '1h 30m', 'x1s', '1sx2s']) {
    t.throws(() => parseDuration(text), /expected such as/, JSON.stringify(text));
  }
});

test('parseHostPort() reads names, both kinds of addresses and ports alone', async (t) => {
  t.same(parseHostPort('[::]:2379'), { host: '::', port: 2379 });
  t.same(parseHostPort(':0'), { host: '::', port: 0 });
  t.same(parseHostPort('10.0.0.1:80'), { host: '10.0.0.1', port: 80 });
  t.same(parseHostPort('registry.example:65535'), { host: 'registry.example', port: 65535 });
  for (const text of ['', '2379', 'a:', 'a:65536', '::1:80', '[a]:80', '[::1]', 'a:b', '[::1]80']) {
    t.throws(() => parseHostPort(text), /expected host:port/, JSON.stringify(text));
  }
});

test('the small parsers refuse what they do not know', async (t) => {
  t.equal(parseBoolean('true'), true);
  t.equal(parseBoolean('false'), false);
  t.throws(() => parseBoolean('yes'), /expected true or false/);
  t.equal(parseText('a'), 'a');
  t.throws(() => parseText(' '), /empty/);
  t.equal(integerParser(-1, 5)('-1'), -1);
  for (const text of ['', '6', '-2', '1e0', ' 1', '0x1', 'NaN'])
    t.throws(() => integerParser(-1, 5)(text), /from -1 to 5/);
  t.equal(parseLogLevel('debug'), 'debug');
  t.throws(() => parseLogLevel('loud'), /expected one of trace, debug/);
  t.throws(() => choiceParser(['a', 'b'])('c'), /expected one of a, b/);
});
