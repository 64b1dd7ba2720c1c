import { test } from 'tap';
import { integerParser, parseBoolean, parseDuration, parseText } from './option-parsers.ts';
import { defineOptions, parseOptions } from './options.ts';

const table = defineOptions({
  clusterName: {
    flag: '--cluster-name NAME',
    env: 'ISTHMUS_CLUSTER_NAME',
    parse: parseText,
    help: 'its name',
    required: true,
  },
  clusterId: {
    flag: '--cluster-id',
    env: 'ISTHMUS_CLUSTER_ID',
    parse: integerParser(1, 511),
    help: 'its id',
    default: '1',
  },
  leaseTtlMs: { flag: '--kvstore-lease-ttl', parse: parseDuration, help: 'lease', default: '15m' },
  nodeIps: {
    flag: '--node-ip',
    env: 'ISTHMUS_NODE_IP',
    parse: parseText,
    help: 'addresses',
    repeatable: true,
  },
  keep: { flag: '--keep', parse: parseBoolean, help: 'keep it', default: 'false', switch: true },
  registry: {
    flag: '--registry-address',
    env: 'ISTHMUS_REGISTRY_ADDRESS',
    parse: parseText,
    help: 'registry',
  },
});

test('parseOptions() takes a flag before a variable before the default', async (t) => {
  const env = {
    ISTHMUS_CLUSTER_NAME: 'from-env',
    ISTHMUS_CLUSTER_ID: '7',
    ISTHMUS_REGISTRY_ADDRESS: '',
  };
  const options = parseOptions(
    table,
    ['--cluster-name', 'from-flag', '--node-ip=10.0.0.1', '--node-ip', '::1', '--keep'],
    env,
  );
  t.same(options, {
    clusterName: 'from-flag',
    clusterId: 7,
    leaseTtlMs: 900_000,
    nodeIps: ['10.0.0.1', '::1'],
    keep: true,
    registry: undefined,
  });
  const fewer = parseOptions(table, [], {
    ISTHMUS_CLUSTER_NAME: 'a',
    ISTHMUS_NODE_IP: '10.0.0.1, 10.0.0.2',
  });
  t.same(fewer.nodeIps, ['10.0.0.1', '10.0.0.2']);
  t.equal(fewer.clusterId, 1);
  t.equal(fewer.keep, false);
});

test('parseOptions() names what is wrong in one line, with exit code 2', async (t) => {
  const name = ['--cluster-name', 'a'];
  const cases: readonly { argv: string[]; env?: Record<string, string>; message: RegExp }[] = [
    { argv: [], message: /^--cluster-name is required: give it, or set ISTHMUS_CLUSTER_NAME$/ },
    {
      argv: [...name, '--cluster-id', '0'],
      message: /^--cluster-id: cannot parse "0": expected a whole number from 1 to 511$/,
    },
    {
      argv: name,
      env: { ISTHMUS_CLUSTER_ID: 'x' },
      message: /^ISTHMUS_CLUSTER_ID \(environment\): cannot parse "x"/,
    },
    {
      argv: ['--cluster-id', '1.5'],
      message: /--cluster-name is required.*; --cluster-id: cannot parse/,
    },
    { argv: [...name, '--unknown'], message: /unknown option '--unknown', see isthmus --help/ },
    { argv: [...name, 'left-over'], message: /too many arguments/ },
    { argv: ['--cluster-name'], message: /argument missing/ },
    { argv: [...name, '--kvstore-lease-ttl', '15'], message: /cannot parse duration "15"/ },
  ];
  for (const { argv, env = {}, message } of cases) {
    t.throws(() => parseOptions(table, argv, env, { name: 'isthmus' }), {
      name: 'OptionsError',
      code: 'usage',
      exitCode: 2,
      message,
    });
  }
});

test('parseOptions() gives the help text for --help', async (t) => {
  try {
    parseOptions(table, ['--help'], {}, { name: 'isthmus', description: 'joins clusters' });
    t.fail('expected the help text');
  } catch (error) {
    t.match(error, { code: 'help', exitCode: 0 });
    const text = (error as Error).message;
    t.match(text, /joins clusters/);
    t.match(text, /--cluster-name <NAME>\s+its name \(required, env: ISTHMUS_CLUSTER_NAME\)/);
    t.match(text, /default: 15m/);
  }
});
