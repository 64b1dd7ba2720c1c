package main

import (
	"fmt"
	"net"

	"github.com/cilium/cilium/pkg/cidr"
	"github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/identity"
	kvstoreStore "github.com/cilium/cilium/pkg/kvstore/store"
	nodeTypes "github.com/cilium/cilium/pkg/node/types"
)

// whole makes a cluster whose parts belong together: pods live on its nodes, in their ranges, with its identities, and
// its services have them as backends.
type whole struct {
	generator
	nodes, pods int
	ids         []identity.NumericIdentity
	// local counts identities, so that each gets a number of its own.
	local identity.NumericIdentity
}

// entry makes the i-th one of a kind. Identities must come before pods.
func (w *whole) entry(k kind, i int) kvstoreStore.Key {
	switch k.name {
	case identities.name:
		id := identity.GetMinimalAllocationIdentity(w.id) + 256 + w.local
		w.local++
		w.ids = append(w.ids, id)
		return w.identity(id)
	case nodes.name:
		return w.node(i)
	case ips.name:
		return w.pod(i)
	case services.name:
		return w.service(i)
	default:
		return w.laterEntry(k)
	}
}

func (w *whole) node(i int) *nodeTypes.Node {
	node := w.generator.node(fmt.Sprintf("node-%d", i))
	node.IPAddresses = append([]nodeTypes.Address{{Type: "InternalIP", IP: w.hostIP(i)}}, node.IPAddresses...)
	node.IPv4AllocCIDR = cidr.MustParseCIDR(fmt.Sprintf("%d.%d.0.0/16", 10+i/256, i%256))
	node.IPv4SecondaryAllocCIDRs = nil
	return node
}

// hostIP is the underlay address of a node.
func (w *whole) hostIP(i int) net.IP {
	return net.IPv4(192, 168, byte(i/256), byte(i%256)).To4()
}

// podIP is the i-th address: pods are dealt to the nodes in turn.
func (w *whole) podIP(i int) (address net.IP, node int) {
	count := max(w.nodes, 1)
	node = i % count
	place := i/count + 1
	return net.IPv4(byte(10+node/256), byte(node%256), byte(place/256), byte(place%256)).To4(), node
}

func (w *whole) pod(i int) *identity.IPIdentityPair {
	address, node := w.podIP(i)
	id := identity.ReservedIdentityRemoteNode
	if len(w.ids) > 0 {
		id = w.ids[i%len(w.ids)]
	}
	pair := w.generator.ip(address, id)
	// One pod, not a range.
	pair.IP, pair.Mask, pair.HostIP, pair.Metadata = address, nil, w.hostIP(node), ""
	return pair
}

func (w *whole) service(i int) *store.ClusterService {
	made := w.generator.service("demo", fmt.Sprintf("service-%d", i))
	ports := store.PortConfiguration{"http": w.port()}
	plain := store.NewClusterService(made.Name, made.Namespace)
	plain.Cluster, plain.ClusterID, plain.Labels, plain.Selector = made.Cluster, made.ClusterID, made.Labels, made.Selector
	plain.IncludeExternal, plain.Shared = true, true
	plain.Frontends[fmt.Sprintf("172.30.%d.%d", i/256, i%256)] = ports
	for range min(3, w.pods) {
		address, _ := w.podIP(w.IntN(w.pods))
		plain.Backends[address.String()] = ports
	}
	return &plain
}
