import { test } from 'tap';
import { findCgroupRoot } from './cgroup-root.ts';
import type { Feature } from './features.ts';
import { preflightProblems, type Surroundings } from './preflight.ts';

const BPF = 0xcafe4a11;
const CGROUP2 = 0x63677270;

const OPTIONS = { bpfRoot: '/bpf/node', cgroupRoot: '/cgroup', objectDir: '/objects' };

function feature(name: string, isFound: boolean, isNeeded = true): Feature {
  return { name, since: '5.10', isNeeded, isFound, lost: 'something' };
}

const FINE: Surroundings = {
  userId: 0,
  capabilities: 0x1ffffffffffn,
  kernelRelease: '6.6.1-generic',
  jitEnabled: '1',
  features: () => [feature('helper redirect_peer', true), feature('type information', true)],
  fileSystemOf: (folder) =>
    new Map([
      ['/bpf', BPF],
      ['/cgroup', CGROUP2],
      ['/', 1],
    ]).get(folder),
  isFile: () => true,
};

test('preflightProblems() has nothing to say where all is well', (t) => {
  t.strictSame(preflightProblems(OPTIONS, FINE), []);
  t.strictSame(preflightProblems(OPTIONS, { ...FINE, jitEnabled: undefined }), []);
  const features = () => [feature('links to interfaces (tcx)', false, false)];
  t.strictSame(preflightProblems(OPTIONS, { ...FINE, features }), [], 'what is optional may lack');
  t.end();
});

test('preflightProblems() says what is missing and what helps', (t) => {
  const cases: [Partial<Surroundings>, RegExp[]][] = [
    [
      { userId: 1000, features: () => [feature('type information', false)] },
      [/as user 1000: run as root/],
    ],
    [
      {
        kernelRelease: '5.4.0-91',
        features: () => [
          feature('helper redirect_peer', false),
          feature('map hash', true),
          feature('hook getpeername', false),
        ],
      },
      [
        /^kernel 5\.4\.0-91 lacks .*: helper redirect_peer \(Linux 5\.10\), hook getpeername \(Linux 5\.10\); use Linux 5\.10 or newer/,
      ],
    ],
    [
      { capabilities: 0x1ffffffffffn & ~(1n << 21n), features: () => [feature('map hash', false)] },
      [
        /^the capability CAP_SYS_ADMIN is missing \(eBPF programs and maps, .*add SYS_ADMIN to securityContext/,
      ],
    ],
    [{ jitEnabled: '0' }, [/sysctl -w net\.core\.bpf_jit_enable=1/]],
    [
      { fileSystemOf: (folder) => (folder === '/' ? 1 : undefined) },
      [
        /\/bpf\/node is not in a bpf file system: run "mkdir -p \/bpf\/node && mount -t bpf/,
        /cgroup root \/cgroup does not exist: run "findmnt -t cgroup2"/,
      ],
    ],
    [
      { fileSystemOf: (folder) => (folder === '/cgroup' ? 7 : BPF) },
      [/cgroup root \/cgroup is not a cgroup v2 folder/],
    ],
    [
      { isFile: (path) => path.endsWith('mesh_overlay.bpf.o') },
      [
        /missing: \/objects\/mesh_endpoint\.bpf\.o, .*\/objects\/mesh_socket\.bpf\.o; run "npm run build"/,
      ],
    ],
  ];
  for (const [surroundings, messages] of cases) {
    const problems = preflightProblems(OPTIONS, { ...FINE, ...surroundings });
    t.match(problems, messages);
    t.equal(problems.length, messages.length, problems.join(' | '));
  }
  t.end();
});

test('findCgroupRoot() reads the mount table', (t) => {
  const line = (folder: string, type: string): string => `none ${folder} ${type} rw,relatime 0 0\n`;
  const hybrid = line('/sys/fs/cgroup', 'tmpfs') + line('/sys/fs/cgroup/unified', 'cgroup2');
  t.equal(findCgroupRoot({ mountTable: hybrid }), '/sys/fs/cgroup/unified');
  t.equal(findCgroupRoot({ mountTable: line('/sys/fs/cgroup', 'cgroup2') }), '/sys/fs/cgroup');
  t.equal(findCgroupRoot({ mountTable: line('/a\\040b\\134c', 'cgroup2') }), '/a b\\c');
  t.throws(() => findCgroupRoot({ mountTable: line('/sys/fs/cgroup', 'cgroup') }), {
    code: 'preflight',
    message: /mount -t cgroup2/,
  });
  t.end();
});
