import { test } from 'tap';
import { DatapathError } from '../../agent/datapath/datapath-error.ts';
import { checkLab, labProblems, type Surroundings } from './preflight.ts';

const FINE: Surroundings = {
  userId: 0,
  kernelRelease: '6.12.0',
  exists: () => true,
  hasProgram: () => true,
  cgroupRoot: () => '/sys/fs/cgroup',
};

test('labProblems() is empty on a machine that has everything', (t) => {
  t.same(labProblems(FINE), []);
  t.end();
});

test('labProblems() says what is missing and what to do', (t) => {
  const cases: [string, Partial<Surroundings>, RegExp][] = [
    ['another user', { userId: 1000 }, /run as root/],
    [
      'an old kernel',
      { kernelRelease: '6.1.0-18-amd64' },
      /6\.1\.0-18-amd64 is too old: Linux 6\.6/,
    ],
    [
      'no etcd',
      { hasProgram: (name) => name !== 'etcd' },
      /^etcd is missing: apt-get install etcd-server$/,
    ],
    [
      'no ptp',
      { exists: (path) => !path.endsWith('/ptp') },
      /ptp is missing in .*containernetworking-plugins/,
    ],
    [
      'no build',
      { exists: (path) => !path.endsWith('clustermesh-cni') },
      /clustermesh-cni is missing: npm run build/,
    ],
    [
      'no cgroup v2',
      {
        cgroupRoot: () => {
          throw new DatapathError('preflight', 'cannot find a cgroup v2 mount: run "mount …"');
        },
      },
      /cannot find a cgroup v2 mount: run/,
    ],
  ];
  for (const [what, difference, expected] of cases) {
    const problems = labProblems({ ...FINE, ...difference });
    t.equal(problems.length, 1, what);
    t.match(problems[0], expected, what);
    t.throws(() => checkLab({ ...FINE, ...difference }), { code: 'preflight' }, what);
  }
  t.end();
});
