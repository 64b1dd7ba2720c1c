//go:build cilium_1.18

package main

import (
	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
	service "github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/identity"
)

func (g generator) laterExportFields(*mcsapi.MCSAPIServiceSpec) {}

func (g generator) laterPodFields(*identity.IPIdentityPair) {}

func (g generator) laterBackendFields(*service.ClusterService, string) {}
