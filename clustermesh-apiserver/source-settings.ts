/** What the options about Kubernetes mean together. */
import { OptionsError, type OptionValues } from '../mesh/runtime/options.ts';
import type { KUBERNETES_OPTIONS } from './kubernetes-options.ts';
import type { ApiserverOptions } from './run.ts';

/** Options that are looked at. */
export type SourceValues = OptionValues<typeof KUBERNETES_OPTIONS> & {
  readonly manifests: string | undefined;
  readonly clustermeshConfig: string | undefined;
};

/** Where the objects come from. Throws OptionsError naming flags that do not go together. */
export function sourceSettings(
  values: SourceValues,
): Pick<ApiserverOptions, 'manifests' | 'kubernetes'> {
  const { mode = values.manifests === undefined ? 'auto' : 'standalone' } = values;
  if (mode === 'standalone') {
    if (values.manifests === undefined) {
      throw new OptionsError('usage', '--mode=standalone needs --manifests, the directory of YAML');
    }
    if (values.kubeconfig !== undefined) {
      throw new OptionsError(
        'usage',
        '--kubeconfig is for the modes cilium, any-cni and auto; give one of them, or no --kubeconfig',
      );
    }
    return { manifests: values.manifests };
  }
  if (values.manifests !== undefined) {
    throw new OptionsError('usage', `--manifests is for --mode=standalone, not for --mode=${mode}`);
  }
  return {
    manifests: undefined,
    kubernetes: {
      kubeconfig: values.kubeconfig,
      context: values.kubernetesContext,
      mode,
      serviceExports: values.clustermeshEnableMcsApi,
      leaseNamespace: values.leaseNamespace,
    },
  };
}

/** What is to be written to Kubernetes; undefined: nothing. Throws OptionsError naming what is missing for it. */
export function controllersSettings(values: SourceValues): ApiserverOptions['controllers'] {
  const { clustermeshConfig: directory, clustermeshEnableEndpointSync: syncs } = values;
  const { clustermeshEnableMcsApi: mcs, enablePolicyStatus: policyStatus } = values;
  const { enableMeshMachines: machines } = values;
  const flags = [
    ...(syncs ? ['--clustermesh-enable-endpoint-sync'] : []),
    ...(mcs ? ['--clustermesh-enable-mcs-api'] : []),
    ...(policyStatus ? ['--enable-policy-status'] : []),
    ...(machines ? ['--enable-mesh-machines'] : []),
  ];
  const [flag] = flags;
  if (flag === undefined) return undefined;
  if (sourceSettings(values).kubernetes === undefined) {
    throw new OptionsError(
      'usage',
      `${flag} needs an API server: it is for the modes cilium, any-cni and auto, not for --mode=standalone`,
    );
  }
  if (directory === undefined && (syncs || mcs)) {
    // In a cluster that Cilium runs --clustermesh-enable-mcs-api publishes the exports, and needs no peers.
    if (!syncs && values.mode === 'cilium') return undefined;
    throw new OptionsError(
      'usage',
      `${flag} needs --clustermesh-config, the directory of the peers' files`,
    );
  }
  if (values.leaderElectionRenewDeadline >= values.leaderElectionLeaseDuration) {
    throw new OptionsError(
      'usage',
      '--leader-election-renew-deadline must be less than --leader-election-lease-duration: otherwise two write at a time',
    );
  }
  return {
    directory,
    endpointSliceSync: syncs
      ? {
          batchMs: values.clustermeshEndpointUpdatesBatchPeriod,
          maxEndpoints: values.clustermeshEndpointsPerSlice,
          workers: values.clustermeshConcurrentServiceEndpointSyncs,
        }
      : undefined,
    mcs: mcs
      ? {
          installCrds: values.clustermeshMcsApiInstallCrds,
          syncSlices: values.clustermeshMcsApiEndpointSlices === 'all',
        }
      : undefined,
    policyStatus,
    machines: machines ? { installCrds: values.meshMachinesInstallCrds } : undefined,
    leaseNamespace: values.leaseNamespace,
    leaseTimes: {
      durationMs: values.leaderElectionLeaseDuration,
      renewDeadlineMs: values.leaderElectionRenewDeadline,
      retryMs: values.leaderElectionRetryPeriod,
    },
  };
}
