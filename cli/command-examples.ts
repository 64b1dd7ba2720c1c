/** An example or two of every command, for its help. A test reads each of them with the command's own parser. */
import type { Command } from 'commander';

/** By the words after `clustermesh`, which the examples leave out. Commands that bring their own are not here. */
const EXAMPLES: Readonly<Record<string, readonly string[]>> = {
  'lab up': ['lab up e2e/topologies/two-clusters.yaml'],
  'lab list': ['lab list'],
  'lab exec': ['lab exec client -- curl -s http://10.101.0.10'],
  'lab down': ['lab down', 'lab down --all'],
  get: [
    'get peers -o wide',
    'get services -n shop',
    'get endpoints --cluster beta -l app=web',
    'get backends -o json',
  ],
  'describe service': ['describe service shop/web', 'describe service web -n shop -o yaml'],
  'map dump': ['map dump services', 'map dump ipcache -o json'],
  monitor: [
    'monitor --drops',
    'monitor --services --port 80',
    'monitor --drops --last 20',
    'monitor --from shop/client --cluster beta -o json',
  ],
  backup: ['backup alpha.backup --passphrase-file /root/passphrase'],
  restore: ['restore alpha.backup --passphrase-file /root/passphrase'],
  drain: ['drain beta'],
  undrain: ['undrain beta'],
  'policy list': ['policy list'],
  'policy get': ['policy get shop/web-alpha'],
  'policy trace': [
    'policy trace --from shop/client --to shop/vault --port 8080',
    'policy trace --from app=client --to 10.101.0.10 --port 80/TCP -o json',
  ],
  'policy simulate': [
    'policy simulate -f change.yaml',
    'policy simulate -f change.yaml --policies policies/ --endpoints pods.yaml --cluster alpha',
  ],
  'policy validate': ['policy validate policies/web.yaml'],
  'policy audit': ['policy audit shop/web-alpha on'],
  'peer list': ['peer list --context alpha'],
  'peer delete': ['peer delete beta --context alpha'],
  'peer rollback': ['peer rollback beta --context alpha'],
  'pki init': ['pki init --out ca'],
  'pki issue': [
    'pki issue server alpha --ca ca --out pki --ip 192.0.2.7',
    'pki issue admin alpha --ca ca --out pki',
  ],
  'pki enrollment': ['pki enrollment --ca ca --out pki'],
  'pki peer': [
    'pki peer beta --out peers --endpoint https://192.0.2.8:2379 --peer-ca beta-ca.crt --cert tls.crt --key tls.key',
  ],
  'pki show': ['pki show pki/admin-alpha/tls.crt', 'pki show pki -o json'],
  'pki check': ['pki check 192.0.2.7:2379 --ca ca/ca.crt'],
  'pki renew': ['pki renew pki --ca ca'],
  'pki rotate-ca': ['pki rotate-ca pki --ca ca'],
  'pki kubernetes': ['pki kubernetes --cluster-name alpha'],
  'kv decode': ['kv decode < pairs.jsonl'],
  'kv dump': [
    'kv dump --config /etc/isthmus/peers/beta',
    'kv dump --config /etc/isthmus/peers/beta --prefix cilium/state/nodes/ -o table',
  ],
  'vm token create': [
    'vm token create --name db --namespace shop --labels app=db',
    'vm token create --name-pattern "web-*" --uses 20 --ttl 30m --context alpha',
  ],
  'vm token list': ['vm token list'],
  'vm token revoke': ['vm token revoke 8a77982ba3a558a2c586'],
  'vm list': ['vm list', 'vm list --context alpha -o json'],
  'vm status': ['vm status db'],
  'vm label': ['vm label db app=db tier-'],
  'vm endpoint set': ['vm endpoint set db web --address 172.18.0.2 --labels app=web'],
  'vm endpoint list': ['vm endpoint list db'],
  'vm endpoint remove': ['vm endpoint remove db web'],
  'vm remove': ['vm remove db'],
  'vm join': ['vm join 192.0.2.7:2382 --name db --token-file token'],
  'vm leave': ['vm leave'],
  'vm firewall enable': [
    'vm firewall enable',
    'vm firewall enable --admin-port 2222 --confirm-within 300',
  ],
  'vm firewall confirm': ['vm firewall confirm'],
  'vm firewall disable': ['vm firewall disable'],
  'vm firewall status': ['vm firewall status', 'vm firewall status -o json'],
  version: ['version', 'version --context alpha -o json'],
  'completion bash': ['completion bash > /etc/bash_completion.d/clustermesh'],
  'completion zsh': ['completion zsh > ~/.zfunc/_clustermesh'],
  'completion fish': ['completion fish > ~/.config/fish/completions/clustermesh.fish'],
};

/** Adds examples to the help of a command and of all that are below it. `path`: its words after `clustermesh`. */
export function addExamples(command: Command, path: readonly string[]): void {
  const examples = EXAMPLES[path.join(' ')] ?? [];
  if (examples.length > 0) {
    const lines = examples.map((example) => `  clustermesh ${example}\n`);
    command.addHelpText(
      'after',
      `\n${lines.length === 1 ? 'Example' : 'Examples'}:\n${lines.join('')}`,
    );
  }
  for (const sub of command.commands) addExamples(sub, [...path, sub.name()]);
}
