/** What an agent whose node enrols does not have to be told, and must not be. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { OptionsError } from '../../mesh/runtime/options.ts';
import { MACHINE_FILES } from '../machine/machine-files.ts';
import { RUN_OPTIONS } from '../options.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** What enrolling finds out, or is for others. */
const INSTEAD = ['etcdConfig', 'clustermeshConfig', 'registryAddress', 'machine'] as const;
const NEEDED = ['enrollmentTokenFile', 'enrollmentTrustedCaFile'] as const;

/**
 * The environment with the files that enrolling writes, where an agent is to enrol. Throws OptionsError naming flags that do not go
 * together.
 */
export function enrollmentEnvironment(argv: readonly string[], env: Environment): Environment {
  const names = [...INSTEAD, ...NEEDED, 'enrollmentAddress', 'stateDir'] as const;
  const { values } = parseArgs({
    args: [...argv],
    strict: false,
    options: Object.fromEntries(
      names.map((name) => [
        flagOf(name).slice(2),
        { type: name === 'machine' ? ('boolean' as const) : ('string' as const) },
      ]),
    ),
  });
  const given = (name: (typeof names)[number]): string | undefined => {
    const value = values[flagOf(name).slice(2)] ?? env[RUN_OPTIONS[name].env];
    const text = value === undefined ? '' : String(value);
    return text === '' || (name === 'machine' && text === 'false') ? undefined : text;
  };
  if (given('enrollmentAddress') === undefined) {
    const alone = NEEDED.find((name) => given(name) !== undefined);
    if (alone === undefined) return env;
    throw new OptionsError('usage', `${flagOf(alone)} needs --enrollment-address`);
  }
  for (const name of INSTEAD) {
    if (given(name) === undefined) continue;
    throw new OptionsError(
      'usage',
      `--enrollment-address and ${flagOf(name)} do not go together: a node that enrols is told by its cluster`,
    );
  }
  for (const name of NEEDED) {
    if (given(name) !== undefined) continue;
    throw new OptionsError('usage', `--enrollment-address needs ${flagOf(name)}`);
  }
  const stateDir = given('stateDir') ?? RUN_OPTIONS.stateDir.default;
  return {
    ...env,
    [RUN_OPTIONS.etcdConfig.env]: join(stateDir, MACHINE_FILES.etcdConfig),
    [RUN_OPTIONS.clustermeshConfig.env]: join(stateDir, MACHINE_FILES.peers),
  };
}

function flagOf(name: keyof typeof RUN_OPTIONS): string {
  return RUN_OPTIONS[name].flag.split(' ')[0] ?? '';
}
