import { writeFile } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { formatEnrollmentToken } from '../mesh/wire/enrollment-token.ts';
import { errorLines, exitCodeOf } from './exit-code.ts';
import { vmJoinCommand } from './vm-join.ts';

const TOKEN = formatEnrollmentToken({
  id: '0123456789abcdef0123',
  secret: Buffer.alloc(32, 1),
  anchor: Buffer.alloc(32, 2),
});

/** Runs the command to its end; the exit code, and everything that was said. */
async function run(args: readonly string[], input = ''): Promise<{ code: number; said: string }> {
  const said: string[] = [];
  const command = vmJoinCommand({
    print: (text) => said.push(text),
    say: (text) => said.push(text),
    input: Readable.from([Buffer.from(input)]),
    signal: new AbortController().signal,
  })
    .exitOverride()
    .configureOutput({ writeErr: (text) => said.push(text) });
  try {
    await command.parseAsync([...args], { from: 'user' });
    return { code: 0, said: said.join('') };
  } catch (error) {
    return { code: exitCodeOf(error), said: [...said, ...errorLines(error)].join('\n') };
  }
}

test('a call that is wrong is said to be before anything is looked at', async (t) => {
  await using dir = await openTempDir('vm-join');
  const file = dir.file('token');
  await writeFile(file, `${TOKEN}\n`);
  const cases: readonly [readonly string[], string, RegExp][] = [
    [['127.0.0.1:1'], '', /required option '--token-file/],
    [['--token-file', '-'], TOKEN, /missing required argument/],
    [['127.0.0.1', '--token-file', '-'], TOKEN, /cannot parse address "127\.0\.0\.1"/],
    [[':1', '--token-file', '-'], TOKEN, /expected host:port/],
    [['127.0.0.1:1', '--token-file', '-'], 'imt1.a.b.c', /standard input holds no token/],
    [['127.0.0.1:1', '--token-file', '-'], 'x'.repeat(100_000), /standard input holds no token/],
    [['127.0.0.1:1', '--token-file', dir.file('none')], '', /cannot read the token: ENOENT/],
    [['127.0.0.1:1', '--token-file', file, '--address', 'here'], '', /expected an IPv4 or IPv6/],
    [
      ['127.0.0.1:1', '--token-file', file, '--name', 'Not_a_name'],
      '',
      /cannot use the name "Not_a_name"/,
    ],
    [
      ['127.0.0.1:1', '--token-file', file, '--name', 'vm', '--', '--services=some'],
      '',
      /flags of the agent, behind "--": --services/,
    ],
  ];
  for (const [args, input, expected] of cases) {
    const { code, said } = await run(
      [...args.slice(0, 3), `--state-dir=${dir.file('state')}`, ...args.slice(3)],
      input,
    );
    t.equal(code, 2, args.join(' '));
    t.match(said, expected);
    t.notMatch(said, TOKEN.split('.')[2] ?? '', 'nobody sees the secret');
  }
});
