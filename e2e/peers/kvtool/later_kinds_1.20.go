//go:build cilium_1.20

package main

import (
	mcsapiTypes "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"

	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
	"github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	slimCore "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/core/v1"
	slimDiscovery "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/discovery/v1"
	"github.com/cilium/cilium/pkg/kvstore/store"
)

type servicePort = mcsapiTypes.ServicePort

const (
	clusterSetIP = mcsapiTypes.ClusterSetIP
	headless     = mcsapiTypes.Headless
)

var endpointSlices = kind{name: "endpoint-slice", base: endpointslice.EndpointSliceStorePrefix, state: endpointslice.EndpointSliceStorePrefix, clustered: true}

// laterKinds came after 1.16.
var laterKinds = []kind{serviceExports, endpointSlices}

func laterKeyCreator(k kind, cluster string, id *uint32) store.KeyCreator {
	if k.name == endpointSlices.name {
		return endpointslice.KeyCreator(
			endpointslice.ClusterNameValidator(cluster), endpointslice.NamespacedNameValidator(), endpointslice.ClusterIDValidator(id))
	}
	return mcsapi.KeyCreator(mcsapi.ClusterNameValidator(cluster), mcsapi.NamespacedNameValidator())
}

func newLaterKey(k kind) store.Key {
	if k.name == endpointSlices.name {
		return &endpointslice.ClusterEndpointSlice{}
	}
	return &mcsapi.MCSAPIServiceSpec{}
}

func (g generator) laterEntry(k kind) store.Key {
	if k.name == endpointSlices.name {
		return g.endpointSlice(g.word(), g.word())
	}
	return g.serviceExport(g.word(), g.word())
}

func (g generator) laterConfig(config *types.CiliumClusterConfig) {
	if g.flip() {
		enabled := g.flip()
		config.Capabilities.ServiceExportsEnabled = &enabled
	}
	config.Capabilities.EndpointSlicesExportMode = []types.EndpointSlicesExportMode{
		types.EndpointSlicesExportModeServicesOnly,
		types.EndpointSlicesExportModeServicesAndEndpointSlices,
		types.EndpointSlicesExportModeEndpointSlicesOnly,
	}[g.IntN(3)]
}

func (g generator) endpointSlice(namespace, name string) *endpointslice.ClusterEndpointSlice {
	made := &endpointslice.ClusterEndpointSlice{
		Cluster: g.cluster, ClusterID: g.id, Namespace: namespace, Name: name,
		Labels: g.labels(), Annotations: g.annotations(), AddressType: slimDiscovery.AddressTypeIPv4,
	}
	address := g.ipv4
	if g.flip() {
		made.AddressType, address = slimDiscovery.AddressTypeIPv6, g.ipv6
	}
	for range g.IntN(20) {
		ready, word := g.flip(), g.word()
		endpoint := slimDiscovery.Endpoint{Addresses: []string{address().String()}}
		endpoint.Conditions.Ready, endpoint.Conditions.Serving = &ready, &ready
		if g.flip() {
			endpoint.Hostname, endpoint.NodeName, endpoint.Zone = &word, &word, &word
			endpoint.Hints = &slimDiscovery.EndpointHints{ForZones: []slimDiscovery.ForZone{{Name: word}}}
		}
		made.Endpoints = append(made.Endpoints, endpoint)
	}
	for range g.IntN(4) {
		name, protocol, port := g.word(), slimCore.Protocol(g.protocol()), int32(1+g.IntN(65535))
		made.Ports = append(made.Ports, slimDiscovery.EndpointPort{Name: &name, Protocol: &protocol, Port: &port})
	}
	return made
}

// publishedConfig says that the later kinds are published.
func publishedConfig(config *types.CiliumClusterConfig) {
	enabled := true
	config.Capabilities.ServiceExportsEnabled = &enabled
	config.Capabilities.EndpointSlicesExportMode = types.EndpointSlicesExportModeServicesAndEndpointSlices
}

// announced says whether a cluster publishes a kind, by its configuration.
func announced(k kind, config types.CiliumClusterConfig) bool {
	switch k.name {
	case serviceExports.name:
		return config.Capabilities.ServiceExportsEnabled != nil
	case endpointSlices.name:
		return config.Capabilities.EndpointSlicesExportMode != types.EndpointSlicesExportModeServicesOnly
	default:
		return true
	}
}
