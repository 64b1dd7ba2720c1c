/** Options of the agent about how policy is enforced. */
import {
  choiceParser,
  integerParser,
  parseBoolean,
  parseDuration,
} from '../../mesh/runtime/option-parsers.ts';
import { ENFORCEMENT_MODES } from '../policy/enforcement-mode.ts';

/** Values of --allow-localhost: `always`, or as policy says. */
const LOCALHOST_MODES = ['always', 'policy'] as const;

/** Part of RUN_OPTIONS. Flags are Cilium's. */
export const POLICY_OPTIONS = {
  enablePolicy: {
    flag: '--enable-policy MODE',
    env: 'ISTHMUS_ENABLE_POLICY',
    default: 'default',
    parse: choiceParser(ENFORCEMENT_MODES),
    help: 'when a pod is closed to what no policy allows: default: in a direction for which some policy selects it; always: every pod in both directions; never: no pod, and what policies deny passes',
  },
  policyAuditMode: {
    flag: '--policy-audit-mode',
    env: 'ISTHMUS_POLICY_AUDIT_MODE',
    default: 'false',
    parse: parseBoolean,
    switch: true,
    help: 'policy denies nothing on this node: what it would deny is counted as policy-audited, told to `clustermesh monitor --audit`, and passes',
  },
  allowLocalhost: {
    flag: '--allow-localhost MODE',
    env: 'ISTHMUS_ALLOW_LOCALHOST',
    default: 'always',
    parse: choiceParser(LOCALHOST_MODES),
    help: 'whether the node itself reaches its pods: always, so that no policy stops probes of the kubelet; policy: where policy lets the entity host in',
  },
  policyMapMax: {
    flag: '--bpf-policy-map-max ENTRIES',
    env: 'ISTHMUS_BPF_POLICY_MAP_MAX',
    default: '16384',
    parse: integerParser(256, 65_536),
    help: 'most entries of the policy map that one pod may need; one whose policies come to more is closed in the directions that they limit',
  },
  identityChangeGracePeriod: {
    flag: '--identity-change-grace-period DURATION',
    env: 'ISTHMUS_IDENTITY_CHANGE_GRACE_PERIOD',
    default: '5s',
    parse: parseDuration,
    help: 'how long a pod with new labels goes on sending under its former identity, so that other nodes and clusters have heard of the new one before they see it; its own policies follow the labels at once',
  },
} as const;
