/** The conformance suite of the Multi-Cluster Services API itself, without what it does inside of pods: no kubelet runs here. */
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { needKube } from '../peers/kube-programs.ts';
import { mcsConformancePeer, runMcsConformance } from '../peers/mcs-conformance.ts';
import { needPeers } from '../peers/peer-binary.ts';
import { openPodRunner } from '../peers/pod-runner.ts';
import { openMcsRig } from './mcs-rig.ts';

/** Those that send packets or ask for names from inside of a pod. */
const INSIDE_PODS = { filter: '!DNS && !Connectivity', skip: 'should be inaccessible' } as const;

if (process.env.ISTHMUS_LONG === 'true') {
  const kube = needKube(process.env);
  const suite = needPeers([mcsConformancePeer], process.env);

  test('the conformance suite of the Multi-Cluster Services API', {
    skip: kube.skip || suite.skip,
    timeout: 900_000,
  }, async (t) => {
    const { alpha, beta } = await openMcsRig(t, kube.programs, [
      'deployment-controller',
      'replicaset-controller',
      'statefulset-controller',
    ]);
    for (const [index, { kube: cluster }] of [alpha, beta].entries()) {
      const runner = await openPodRunner(cluster, index + 1);
      t.teardown(async () => {
        await runner[Symbol.asyncDispose]();
        if (runner.problems.length > 0) t.comment(runner.problems.slice(0, 5).join('\n'));
      });
    }
    const dir = await openTempDir('mcs-conformance');
    t.teardown(() => dir[Symbol.asyncDispose]());
    const ending = new AbortController();
    t.teardown(() => ending.abort());
    const results = await runMcsConformance(suite.paths[0] ?? '', [alpha.kube, beta.kube], {
      ...INSIDE_PODS,
      dir,
      signal: ending.signal,
    });
    for (const { text, state, message } of results) {
      if (state === 'skipped') t.comment(`not judged: ${text}`);
      else t.equal(state, 'passed', `${text}${message === '' ? '' : `: ${message}`}`);
    }
    t.equal(results.filter(({ state }) => state === 'passed').length, 16, 'of 27');
  });
}
