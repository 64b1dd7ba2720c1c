package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/cilium/pkg/cidr"
	"github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/kvstore"
	kvstoreStore "github.com/cilium/cilium/pkg/kvstore/store"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/loadbalancer"
	"github.com/cilium/cilium/pkg/node/addressing"
	nodeTypes "github.com/cilium/cilium/pkg/node/types"
	"github.com/cilium/cilium/pkg/source"
)

// printRandom prints random keys and values of all kinds, of random clusters, as Cilium's own types write them.
func printRandom(args []string) error {
	flags := flag.NewFlagSet("random", flag.ExitOnError)
	var cluster clusterFlags
	cluster.register(flags)
	count := flags.Int("count", 1000, "how many lines")
	seed := flags.Uint64("seed", 1, "the same seed prints the same lines")
	_ = flags.Parse(args)
	if err := cluster.apply(); err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := newLineEncoder(out)
	random := rand.New(rand.NewPCG(*seed, 0))
	for i := range *count {
		id := uint32(cluster.id)
		if id == 0 {
			id = 1 + uint32(random.IntN(int(cluster.maxClusters)))
		}
		name := cluster.name
		if name == "" {
			name = fmt.Sprintf("cluster-%d", id)
		}
		made := generator{Rand: random, cluster: name, id: id, maxClusters: uint32(cluster.maxClusters)}
		line, err := made.pair(i)
		if err != nil {
			return err
		}
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// generator makes what a cluster might publish.
type generator struct {
	*rand.Rand
	cluster     string
	id          uint32
	maxClusters uint32
}

// pair makes the i-th one: the kinds take turns, and now and then it is a configuration, a marker or a heartbeat.
func (g generator) pair(i int) (pair, error) {
	line, err := g.anyPair(i)
	line.Cluster, line.ClusterID = g.cluster, g.id
	return line, err
}

func (g generator) anyPair(i int) (pair, error) {
	stamp := []byte(time.Unix(1_700_000_000+g.Int64N(100_000_000), 0).UTC().Format(time.RFC3339))
	cached := g.IntN(4) == 0
	switch i % 16 {
	case 13:
		value, err := json.Marshal(g.config())
		return newPair(path.Join(kvstore.ClusterConfigPrefix, g.cluster), value), err
	case 14:
		k := kinds[g.IntN(len(kinds))]
		return newPair(path.Join(kvstore.SyncedPrefix, g.cluster, k.marker(cached)), stamp), nil
	case 15:
		return newPair(kvstore.HeartbeatPath, stamp), nil
	}
	k := kinds[i%16%len(kinds)]
	entry := g.entry(k)
	value, err := entry.Marshal()
	name := entry.GetKeyName()
	if k.clustered {
		name = strings.TrimPrefix(name, g.cluster+"/")
	}
	return newPair(path.Join(k.prefix(g.cluster, cached), name), value), err
}

// entry makes a random entry of a kind.
func (g generator) entry(k kind) kvstoreStore.Key {
	switch k.name {
	case nodes.name:
		return g.node(g.word())
	case services.name:
		return g.service(g.word(), g.word())
	case ips.name:
		return g.ip(g.address(), g.identityID())
	case identities.name:
		return g.identity(g.identityID())
	default:
		return g.laterEntry(k)
	}
}

func (g generator) config() types.CiliumClusterConfig {
	config := types.CiliumClusterConfig{ID: g.id}
	config.Capabilities.SyncedCanaries = g.flip()
	config.Capabilities.Cached = g.flip()
	config.Capabilities.MaxConnectedClusters = g.maxClusters
	g.laterConfig(&config)
	return config
}

func (g generator) node(name string) *nodeTypes.Node {
	node := &nodeTypes.Node{
		Name: name, Cluster: g.cluster, ClusterID: g.id, Source: source.CustomResource,
		EncryptionKey: uint8(g.IntN(256)), Labels: g.labels(), Annotations: g.annotations(),
	}
	kinds := []addressing.AddressType{
		addressing.NodeInternalIP, addressing.NodeExternalIP, addressing.NodeCiliumInternalIP,
	}
	for range 1 + g.IntN(5) {
		node.IPAddresses = append(node.IPAddresses, nodeTypes.Address{Type: kinds[g.IntN(len(kinds))], IP: g.address()})
	}
	if g.flip() {
		node.IPv4AllocCIDR = cidr.MustParseCIDR(fmt.Sprintf("10.%d.%d.0/24", g.IntN(256), g.IntN(256)))
		for range g.IntN(3) {
			node.IPv4SecondaryAllocCIDRs = append(node.IPv4SecondaryAllocCIDRs,
				cidr.MustParseCIDR(fmt.Sprintf("10.%d.%d.0/26", g.IntN(256), g.IntN(256))))
		}
		node.IPv4HealthIP = g.ipv4()
	}
	if g.flip() {
		node.IPv6AllocCIDR = cidr.MustParseCIDR(fmt.Sprintf("fd00:%x::/64", g.IntN(1<<16)))
		for range g.IntN(3) {
			node.IPv6SecondaryAllocCIDRs = append(node.IPv6SecondaryAllocCIDRs,
				cidr.MustParseCIDR(fmt.Sprintf("fd01:%x::/96", g.IntN(1<<16))))
		}
		node.IPv6HealthIP = g.ipv6()
	}
	if g.flip() {
		node.IPv4IngressIP, node.IPv6IngressIP = g.ipv4(), g.ipv6()
		node.WireguardPubKey = "q8wF" + strings.Repeat(string(rune('A'+g.IntN(26))), 39) + "="
		node.BootID = fmt.Sprintf("%08x-0000-4000-8000-%012x", g.Uint32(), g.Uint64()>>16)
	}
	return node
}

func (g generator) ip(address net.IP, id identity.NumericIdentity) *identity.IPIdentityPair {
	pair := &identity.IPIdentityPair{IP: address, HostIP: g.address(), ID: id, Key: uint8(g.IntN(256))}
	switch g.IntN(8) {
	case 0:
		// A prefix in place of an address: host bits are zero, as they are in what Cilium writes.
		bits := len(address) * 8
		pair.Mask = net.CIDRMask(bits-8*(1+g.IntN(2)), bits)
		pair.IP = address.Mask(pair.Mask)
	case 1:
		pair.HostIP, pair.Metadata = nil, "cidr:10.0.0.0/8"
	}
	if g.IntN(8) != 0 {
		pair.K8sNamespace, pair.K8sPodName = g.word(), g.word()+"-0"
		g.laterPodFields(pair)
	}
	for range g.IntN(4) {
		pair.NamedPorts = append(pair.NamedPorts, identity.NamedPort{
			Name: g.word(), Port: uint16(1 + g.IntN(65535)), Protocol: g.protocol(),
		})
	}
	return pair
}

func (g generator) identity(id identity.NumericIdentity) *kvstoreStore.KVPair {
	set := map[string]string{
		"k8s:io.cilium.k8s.policy.cluster":        g.cluster,
		"k8s:io.kubernetes.pod.namespace":         g.word(),
		"k8s:io.cilium.k8s.policy.serviceaccount": g.word(),
	}
	sources := []string{"k8s", "container", "any", "unspec"}
	for name, value := range g.labels() {
		set[sources[g.IntN(len(sources))]+":"+name] = value
	}
	return kvstoreStore.NewKVPair(id.String(), string(labels.Map2Labels(set, "").SortedList()))
}

func (g generator) service(namespace, name string) *store.ClusterService {
	made := store.NewClusterService(name, namespace)
	made.Cluster, made.ClusterID = g.cluster, g.id
	made.IncludeExternal, made.Shared = g.flip(), g.flip()
	// Never nil, as what Cilium makes of a Service.
	maps.Copy(made.Labels, g.labels())
	maps.Copy(made.Selector, g.labels())
	ports := store.PortConfiguration{}
	for range 1 + g.IntN(4) {
		ports[g.word()] = g.port()
	}
	if g.IntN(8) == 0 {
		ports = store.PortConfiguration{"": g.port()}
	}
	for range g.IntN(3) {
		made.Frontends[g.address().String()] = ports
	}
	for range g.IntN(6) {
		backend := g.address().String()
		made.Backends[backend] = ports
		if g.flip() {
			made.Hostnames[backend] = g.word() + "-0"
		}
		g.laterBackendFields(&made, backend)
	}
	return &made
}

func (g generator) port() *loadbalancer.L4Addr {
	return &loadbalancer.L4Addr{Protocol: loadbalancer.L4Type(g.protocol()), Port: uint16(1 + g.IntN(65535))}
}

func (g generator) protocol() string { return []string{"TCP", "UDP", "SCTP"}[g.IntN(3)] }

func (g generator) flip() bool { return g.IntN(2) == 0 }

// identityID is one of the cluster's own range.
func (g generator) identityID() identity.NumericIdentity {
	low := identity.GetMinimalAllocationIdentity(g.id)
	high := identity.GetMaximumAllocationIdentity(g.id)
	return low + identity.NumericIdentity(g.Uint32N(uint32(high-low)+1))
}

func (g generator) address() net.IP {
	if g.flip() {
		return g.ipv4()
	}
	return g.ipv6()
}

// ipv4 is of networks that clusters are built in.
func (g generator) ipv4() net.IP {
	first := []byte{10, 100, 172, 192}[g.IntN(4)]
	return net.IPv4(first, byte(g.IntN(256)), byte(g.IntN(256)), byte(1+g.IntN(254))).To4()
}

// ipv6 has runs of zeros of every length, since writing them short is where writers differ.
func (g generator) ipv6() net.IP {
	address := make(net.IP, net.IPv6len)
	address[0], address[1] = 0xfd, byte(g.IntN(256))
	for i := 2; i < len(address); i++ {
		if g.IntN(3) == 0 {
			address[i] = byte(g.IntN(256))
		}
	}
	return address
}

// word is a name as Kubernetes allows it.
func (g generator) word() string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
	word := make([]byte, 1+g.IntN(12))
	for i := range word {
		word[i] = letters[g.IntN(len(letters))]
	}
	word[0], word[len(word)-1] = letters[g.IntN(26)], letters[g.IntN(36)]
	return string(word)
}

func (g generator) labels() map[string]string {
	if g.IntN(8) == 0 {
		return nil
	}
	set := map[string]string{}
	for range g.IntN(5) {
		value := g.word()
		switch g.IntN(6) {
		case 0:
			value = ""
		case 1:
			value += "_" + strconv.Itoa(g.IntN(100)) + ".A"
		}
		name := g.word()
		if g.flip() {
			name = g.word() + "." + g.word() + "/" + name
		}
		set[name] = value
	}
	return set
}

// annotations hold any text, with all that a JSON writer may escape.
func (g generator) annotations() map[string]string {
	set := g.labels()
	if set != nil && g.flip() {
		texts := []string{"<a & b>", "line\nline\t\"quoted\" \\", "Zürich – 東京 🙂", "\u2028\u2029\x7f\x01"}
		set["example.org/text"] = texts[g.IntN(len(texts))]
	}
	return set
}
