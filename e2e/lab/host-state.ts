/** What a host is like, to be compared before and after an agent was there. */

const SCRIPT = `
ip -brief link; ip -brief address; ip rule; ip -6 rule
ip route show table all; ip -6 route show table all | sed 's/ expires [0-9]*sec//'
ip neighbour show nud permanent
tc qdisc show; for d in lo eth0; do tc filter show dev $d ingress; tc filter show dev $d egress; done
sysctl -a --pattern '^net\\.(ipv4|ipv6|core)\\.' 2>/dev/null | grep -v -e random -e fastopen_key -e neigh.default.gc
ss -Hlntu | awk '{print $1, $5}' | sort
cat /etc/resolv.conf
(iptables-save; ip6tables-save) 2>/dev/null | grep -v '^[#:]'
`;

/**
 * Prints everything of a host, or of a network namespace, that an agent might have changed. What changes by itself is left out:
 * counters, and times that addresses have left.
 */
export const HOST_STATE_COMMAND: readonly string[] = ['sh', '-c', SCRIPT];
