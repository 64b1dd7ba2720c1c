/** Why a verdict is what it is, as lines. */
import type { RuleInfo, VerdictInfo } from '../agent/policy/sources-of-verdict-info.ts';
import type { PartyInfo } from '../agent/policy/trace-view.ts';

/** What a verdict is about. */
export interface ReasonAbout {
  readonly direction: 'ingress' | 'egress';
  readonly own: Pick<PartyInfo, 'labels'>;
  readonly other: Pick<PartyInfo, 'labels' | 'address'>;
  readonly port: string;
}

const MISSES = {
  cluster:
    'fits but for the cluster: its selector means another one; ask for io.cilium.k8s.policy.cluster in it',
  port: 'allows this peer, on other ports',
  peer: 'allows this port, to others',
} as const;

/** Labels that say nothing about which pod it is. */
const NOISE =
  /^(k8s:io\.cilium\.k8s\.(namespace\.labels|policy\.serviceaccount)|k8s:io\.kubernetes\.pod\.namespace)/;

/** Rules that decided, or what is missing and the rules that nearly fit. */
export function reasonLines(says: VerdictInfo, about: ReasonAbout): string[] {
  const lines = says.rules.map((rule) => `${rule.verdict} ${ruleLine(rule)}`);
  if (says.because !== 'no-rule' && says.because !== 'mode-always') return lines;
  const side = about.direction === 'ingress' ? 'from' : 'to';
  const verb = about.direction === 'ingress' ? 'selects' : 'of a policy that selects';
  const subject = shortLabels(about.own.labels);
  const missing =
    about.direction === 'ingress'
      ? `missing: an ingress rule of a policy that ${verb} ${subject}, ${side} ${peerName(about.other)}, port ${about.port}`
      : `missing: an egress rule ${verb} ${subject}, ${side} ${peerName(about.other)}, port ${about.port}`;
  return [
    missing,
    ...says.nearMisses.map((rule) => `near: ${ruleLine(rule)}: ${MISSES[rule.misses]}`),
  ];
}

/** `CiliumNetworkPolicy demo/web spec.ingress[0] (web.yaml:12): from app=client on 80/TCP`. */
export function ruleLine({ policy, path, file, line, text }: RuleInfo): string {
  const where = file === undefined ? '' : ` (${file}${line === undefined ? '' : `:${line}`})`;
  return `${policy} ${path}${where}: ${text}`;
}

/** Labels without those that all pods of a namespace have. */
export function shortLabels(labels: readonly string[]): string {
  const telling = labels.filter((label) => !NOISE.test(label));
  return (telling.length > 0 ? telling : labels)
    .map((label) => label.replace(/^k8s:/, ''))
    .join(',');
}

function peerName({ labels, address }: Pick<PartyInfo, 'labels' | 'address'>): string {
  const text = shortLabels(labels);
  return text === '' ? (address ?? 'anybody') : text;
}
