//go:build cilium_1.18 || cilium_1.19

package main

import (
	mcsapiTypes "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"

	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
	"github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/kvstore/store"
)

type servicePort = mcsapiTypes.ServicePort

const (
	clusterSetIP = mcsapiTypes.ClusterSetIP
	headless     = mcsapiTypes.Headless
)

// laterKinds came after 1.16.
var laterKinds = []kind{serviceExports}

func laterKeyCreator(_ kind, cluster string, _ *uint32) store.KeyCreator {
	return mcsapi.KeyCreator(mcsapi.ClusterNameValidator(cluster), mcsapi.NamespacedNameValidator())
}

func newLaterKey(kind) store.Key { return &mcsapi.MCSAPIServiceSpec{} }

func (g generator) laterEntry(kind) store.Key { return g.serviceExport(g.word(), g.word()) }

func (g generator) laterConfig(config *types.CiliumClusterConfig) {
	if g.flip() {
		enabled := g.flip()
		config.Capabilities.ServiceExportsEnabled = &enabled
	}
}

// publishedConfig says that the later kinds are published.
func publishedConfig(config *types.CiliumClusterConfig) {
	enabled := true
	config.Capabilities.ServiceExportsEnabled = &enabled
}

// announced says whether a cluster publishes a kind, by its configuration.
func announced(k kind, config types.CiliumClusterConfig) bool {
	return k.name != serviceExports.name || config.Capabilities.ServiceExportsEnabled != nil
}
