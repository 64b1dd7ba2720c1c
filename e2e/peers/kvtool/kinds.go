package main

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	serviceStore "github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/identity"
	identityCache "github.com/cilium/cilium/pkg/identity/cache"
	"github.com/cilium/cilium/pkg/ipcache"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/cilium/cilium/pkg/kvstore/store"
	nodeStore "github.com/cilium/cilium/pkg/node/store"
	nodeTypes "github.com/cilium/cilium/pkg/node/types"
)

// kind is one sort of key: where it lies, and which marker says that all of it is written.
type kind struct {
	name string
	// base is the prefix its marker names.
	base string
	// state is the prefix in the cluster's own etcd, without the cluster.
	state string
	// cachedSuffix stands between the cluster and the rest of a key in a mirror.
	cachedSuffix string
	// clustered says that the cluster's name follows `state`.
	clustered bool
}

var (
	nodes      = kind{name: "node", base: nodeStore.NodeStorePrefix, state: nodeStore.NodeStorePrefix, clustered: true}
	services   = kind{name: "service", base: serviceStore.ServiceStorePrefix, state: serviceStore.ServiceStorePrefix, clustered: true}
	ips        = kind{name: "ip", base: ipcache.IPIdentitiesPath, state: path.Join(ipcache.IPIdentitiesPath, ipcache.DefaultAddressSpace)}
	identities = kind{name: "identity", base: identityCache.IdentitiesPath, state: path.Join(identityCache.IdentitiesPath, "id"), cachedSuffix: "id"}
)

// kinds are those this version of Cilium has, in the order its reader starts them.
var kinds = append([]kind{nodes, services, ips, identities}, laterKinds...)

// prefix of a cluster's keys, without a trailing slash.
func (k kind) prefix(cluster string, cached bool) string {
	switch {
	case cached:
		return path.Join(kvstore.StateToCachePrefix(k.base), cluster, k.cachedSuffix)
	case k.clustered:
		return path.Join(k.state, cluster)
	default:
		return k.state
	}
}

// marker is the prefix as the cluster's synced marker names it.
func (k kind) marker(cached bool) string {
	if cached {
		return kvstore.StateToCachePrefix(k.base)
	}
	return k.base
}

// place is what a key alone tells.
type place struct {
	kind kind
	// cluster is empty where the key does not name it.
	cluster string
	cached  bool
}

// findPlace says of which kind a key is; false for every key that none of Cilium's watchers of a peer reads.
func findPlace(key string) (place, bool) {
	for _, k := range kinds {
		if rest, ok := strings.CutPrefix(key, kvstore.StateToCachePrefix(k.base)+"/"); ok {
			cluster, rest, _ := strings.Cut(rest, "/")
			if k.cachedSuffix == "" || strings.HasPrefix(rest, k.cachedSuffix+"/") {
				return place{kind: k, cluster: cluster, cached: true}, true
			}
		}
		if rest, ok := strings.CutPrefix(key, k.state+"/"); ok {
			if !k.clustered {
				return place{kind: k}, true
			}
			cluster, _, _ := strings.Cut(rest, "/")
			return place{kind: k, cluster: cluster}, true
		}
	}
	return place{}, false
}

// pair is a key and a value as a line of JSON; the value is base64 where it is not text.
type pair struct {
	Key      string `json:"key"`
	Value    string `json:"value"`
	Encoding string `json:"encoding,omitempty"`
	// Cluster and ClusterID say whose key it is, where it does not say so itself.
	Cluster   string `json:"cluster,omitempty"`
	ClusterID uint32 `json:"clusterId,omitempty"`
}

func newPair(key string, value []byte) pair {
	text, encoding := encodeValue(value)
	return pair{Key: key, Value: text, Encoding: encoding}
}

func encodeValue(value []byte) (text, encoding string) {
	if utf8.Valid(value) {
		return string(value), ""
	}
	return base64.StdEncoding.EncodeToString(value), "base64"
}

func (p pair) bytes() ([]byte, error) {
	if p.Encoding == "base64" {
		return base64.StdEncoding.DecodeString(p.Value)
	}
	return []byte(p.Value), nil
}

// newLineEncoder writes values one a line, with `<`, `>` and `&` as they are.
func newLineEncoder(out io.Writer) *json.Encoder {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return encoder
}

// newKey is an empty entry of a kind, with its type's own decoder and no check against a peer.
func newKey(k kind) store.Key {
	switch k.name {
	case nodes.name:
		return &nodeTypes.Node{}
	case services.name:
		return &serviceStore.ClusterService{}
	case ips.name:
		return &identity.IPIdentityPair{}
	case identities.name:
		return store.KVPairCreator()
	default:
		return newLaterKey(k)
	}
}
